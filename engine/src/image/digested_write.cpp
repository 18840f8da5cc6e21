#include "image/digested_write.h"

#include <algorithm>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>

#include "image/digest.h"
#include "image/new_file.h"
#include "system/system.h"

namespace zerocopy {
namespace {

// What a thread digests and then writes at once: little enough to be in the processor's cache when it is written, and
// enough for the time between to be small beside that of the call.
constexpr std::uint64_t kChunk = std::uint64_t{1} << 20U;
constexpr std::size_t kPiecesInChunk = 512;
constexpr std::uint64_t kReports = 100;

// A digest needs its bytes in their order, the file takes them in any. So the threads take turns: each takes the next
// chunk and digests it while it holds the lock, then writes it while another one has its turn.
class DigestedWrite {
 public:
  DigestedWrite(const NewFile& file, std::uint64_t offset, std::span<const Piece> pieces, std::uint32_t digests,
                const WriteOptions& options)
      : file_(&file), pieces_(pieces), options_(&options), offset_(offset), digests_(digests) {
    std::ranges::fill(digests_, digester_.take());
    for (const Piece& piece : pieces) {
      total_ += piece.bytes.size();
    }
  }

  std::vector<std::string> run(System& system) {
    std::vector<std::thread> threads;
    threads.reserve(options_->threads - 1);
    try {
      while (threads.size() + 1 < options_->threads && threads.size() + 1 < total_ / kChunk) {
        threads.emplace_back([&] {
          system.block_signals();
          work();
        });
      }
    } catch (const std::system_error&) {  // NOLINT(bugprone-empty-catch): as many as can be had are enough.
    }
    work(options_->progress);
    for (std::thread& thread : threads) {
      thread.join();
    }
    if (failure_) {
      std::rethrow_exception(failure_);
    }
    if (options_->progress) {
      options_->progress(total_, total_);
    }
    return std::move(digests_);
  }

 private:
  struct Chunk {
    std::uint64_t offset = 0;
    std::uint64_t nbytes = 0;
    std::vector<std::span<const std::byte>> bytes;
  };

  void work(const std::function<void(std::uint64_t, std::uint64_t)>& progress = {}) noexcept {
    try {
      std::uint64_t reported = 0;
      Chunk chunk;
      while (take(chunk)) {
        file_->write(chunk.bytes, chunk.offset);
        const std::uint64_t written = add_written(chunk.nbytes);
        if (progress && written - reported >= total_ / kReports && written < total_) {
          progress(written, total_);
          reported = written;
        }
      }
    } catch (...) {
      const std::scoped_lock lock(mutex_);
      if (!failure_) {
        failure_ = std::current_exception();
      }
    }
  }

  // Whether there was something left.
  bool take(Chunk& chunk) {
    const std::scoped_lock lock(mutex_);
    chunk.offset = offset_;
    chunk.nbytes = 0;
    chunk.bytes.clear();
    while (!failure_ && next_ < pieces_.size() && chunk.nbytes < kChunk && chunk.bytes.size() < kPiecesInChunk) {
      const Piece& piece = pieces_[next_];
      const auto left = piece.bytes.subspan(taken_);
      const auto bytes =
          left.first(static_cast<std::size_t>(std::min<std::uint64_t>(left.size(), kChunk - chunk.nbytes)));
      chunk.bytes.push_back(bytes);
      chunk.nbytes += bytes.size();
      digest(bytes);
      taken_ += bytes.size();
      if (taken_ == piece.bytes.size()) {
        finish_piece();
      }
    }
    offset_ += chunk.nbytes;
    return !chunk.bytes.empty();
  }

  void digest(std::span<const std::byte> bytes) {
    if (pieces_[next_].digest) {
      digester_.add(bytes);
    }
  }

  void finish_piece() {
    const std::optional<std::uint32_t> number = pieces_[next_].digest;
    ++next_;
    taken_ = 0;
    if (number && (next_ == pieces_.size() || pieces_[next_].digest != number)) {
      digests_[*number] = digester_.take();
    }
  }

  std::uint64_t add_written(std::uint64_t nbytes) {
    const std::scoped_lock lock(mutex_);
    written_ += nbytes;
    return written_;
  }

  const NewFile* file_;
  std::span<const Piece> pieces_;
  const WriteOptions* options_;
  std::uint64_t total_ = 0;

  std::mutex mutex_;
  // Under the lock:
  std::uint64_t offset_;   // Of what is taken next, in the file.
  std::size_t next_ = 0;   // The piece that it is in.
  std::size_t taken_ = 0;  // Bytes of that piece.
  Digester digester_;
  std::vector<std::string> digests_;
  std::uint64_t written_ = 0;
  std::exception_ptr failure_;
};

}  // namespace

std::vector<std::string> write_digested(const NewFile& file, std::uint64_t offset, std::span<const Piece> pieces,
                                        std::uint32_t digests, const WriteOptions& options, System& system) {
  return DigestedWrite(file, offset, pieces, digests, options).run(system);
}

}  // namespace zerocopy
