"""What loaded models cost: in this process, in Ray's metrics, and in all processes of a cluster. Imports no torch."""
