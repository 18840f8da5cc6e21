"""Ways in which a model could keep something from one call to the next, one a line: no later call sees it."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch
from hoarder import OPAQUE, hoarder

from ray_zerocopy import TaskWrapper
from ray_zerocopy.image import freeze, thaw_in_view
from ray_zerocopy.tasks.freshness import FreshState

PAUSE_SECONDS = 0.03
"""Long enough for a worker to see what has become of a model, and to load another."""

# What is looked at, and then done; `m` is the model.
SEEN = """
len(m.one)                        m.two.append(m.one.pop())
m.two                             m.two, m.one = m.one, m.two
m.one                             m.one[0], m.one[1] = m.one[1], m.one[0]
len(m.one)                        m.one.append(m.one[0])
m.x + m.y                         m.x, m.y = m.y, m.x
list(vars(m))[-1]                 m.extra = 1
hasattr(m, 'z')                   m.z = vars(m).pop('y')
list(vars(m)).index('x')          m.x = vars(m).pop('x')
sorted(m.d)                       m.d['z'] = m.d.pop('a')
list(m.d)                         m.d['a'] = m.d.pop('a')
m.d                               m.d['a'], m.d['b'] = m.d['b'], m.d['a']
m.d                               m.d.update(a=1.0)
len(m.dd)                         m.dd['new']
m.dd.default_factory              m.dd.default_factory = list
list(m.od)                        m.od.move_to_end('a')
hasattr(m.empty_od, 'seen')       m.empty_od.seen = 1
hasattr(m.child._forward_hooks, 'n')  m.child._forward_hooks.n = 1
m.counter                         m.counter.update('a')
sorted(m.s)                       m.s.add('r'); m.s.discard('p')
list(m.dq)                        m.dq.rotate()
m.nested                          m.nested[0]['deep'].append(2)
vars(m.text)                      m.text.seen = 1
vars(m.number)                    m.number.seen = 1
vars(m.pair)                      m.pair.seen = 1
m.slotted.value                   m.slotted.value += 1
hasattr(m.slotted, 'value')       m.slotted.other = m.slotted.value; del m.slotted.value
m.forgetful.count                 m.forgetful.count += 1
m.space.value                     m.space.value += 1
m.partial.keywords                m.partial.keywords['default'] = 1
vars(m.partial)                   m.partial.seen = 1
m.function()                      pass
vars(m.function)                  m.function.seen = 1
m.function.__defaults__           m.function.__defaults__[1].append(1)
m.function.__kwdefaults__         m.function.__kwdefaults__['more'].append(1)
m.function.__code__.co_name       m.function.__code__ = m.function.__code__.replace(co_name='z')
m.cached(1)                       m.cached(1).append(2)
m.property                        m.property.append(1)
m in Hoarder.registry             Hoarder.registry[m] = 1
sorted(m.weak)                    m.weak['m'] = m
m.lock.locked()                   m.lock.acquire(blocking=False)
float(m.scratch[0])               m.scratch += 1
m.scratch.shape                   m.scratch.resize_(2)
float(m.np_scratch[0])            m.np_scratch += 1
float(m.w[5])                     m.w.add_(1)
float(m.b[5])                     m.b.numpy()[:] += 1
float(m.b[5])                     m.b.data = m.b + 1
m.b._version                      m.b.add_(0)
m.scratch._version                m.scratch.add_(0)
m.t.shape                         m.t.t_()
m.t.shape                         m.t.unsqueeze_(0)
m.t.dtype                         m.t.data = m.t.view(torch.int32)
m.t.tolist()                      m.t.set_(m.t.clone() + 1)
m.tensors[0].shape                m.tensors[0].unsqueeze_(0)
m.tensors[0].tolist()             m.tensors.reverse()
m.c.is_conj()                     m.c.data = m.c.conj()
m.t.is_neg()                      m.t.data = torch._neg_view(m.t)
m.w.requires_grad                 m.w.requires_grad_(False)
m.w.grad is None                  m.w.grad = torch.ones_like(m.w)
m.w._backward_hooks               m.w.register_hook(print)
m.w._post_accumulate_grad_hooks   m.w.register_post_accumulate_grad_hook(print)
type(m.w).__name__                m.w.__class__ = OtherParameter
hasattr(m.w, 'seen')              m.w.seen = 1
type(m.child).__name__            m.child.__class__ = OtherLinear
list(m._parameters)               m._parameters['w'] = m._parameters.pop('w')
list(m._buffers)                  m.register_buffer('more', torch.zeros(1))
m._non_persistent_buffers_set     m._non_persistent_buffers_set.add('b')
len(m._forward_hooks)             m.register_forward_hook(lambda *_: None)
len(m.child._forward_pre_hooks)   m.child.register_forward_pre_hook(lambda *_: None)
len(m._state_dict_hooks)          m.register_state_dict_post_hook(lambda *_: None)
m.child.training                  m.train()
m.child.in_features               m.child.__dict__ = dict(vars(m.child), in_features=5)
float(m.large_array[3])           m.large_array += 1
m.array.shape                     m.array.shape = (2, 2)
m.array.flags.writeable           m.array.flags.writeable = False
m.array.dtype                     m.array.dtype = np.int64
m.ma.mask.tolist()                m.ma[0] = np.ma.masked
m.ma.fill_value                   m.ma.fill_value = 7
m.ma.hardmask                     m.ma.harden_mask()
float(m.ma.data[0])               m.ma.data[0] += 1
float(m.matrix[0, 0])             m.matrix += 1
m.records.dtype.names             m.records.dtype.names = ('z', 'shape')
int(m.records.a[0])               m.records.a += 1
m.nested_records.dtype['a'].names  m.nested_records.dtype['a'].names = ('z',)
m.children_by_name['a'].in_features  m.children_by_name['a'].in_features += 1
list(m.children_by_name)          m.children_by_name['b'] = nn.ReLU()
float(m.children_by_name['a'].bias[0])  m.children_by_name['a'].bias += 1
list(m.parameters_by_name)        m.parameters_by_name['b'] = nn.Parameter(torch.ones(1))
m.alias.__args__                  m.alias.__args__[0].append(1)
m.function.__annotations__        m.function.__annotations__['seen'] = 1
m.inferred.tolist()               torch.inference_mode()(m.inferred.add_)(1)
hasattr(m.w.untyped_storage(), 'seen')  m.w.untyped_storage().seen = 1
m.part.untyped_storage().nbytes()  m.part.data = torch.from_numpy(m.part.numpy())
"""

# The same where a call leaves a part of the model outside, and others change it there.
HELD = """
meddle('detached', lambda t: t.fill_(9)), float(m.w[5])  OUTSIDE['detached'] = m.w.detach()
meddle('slice', lambda t: t.fill_(9)), float(m.scratch[3])  OUTSIDE['slice'] = m.scratch[:]
meddle('storage', lambda s: s.fill_(9)), float(m.b[5])  OUTSIDE['storage'] = m.b.untyped_storage()
meddle('numpy', lambda a: a.fill(9)), float(m.b[5])  OUTSIDE['numpy'] = m.b.numpy()
meddle('dlpack', lambda t: t.fill_(9)), float(m.b[5])  OUTSIDE['dlpack'] = torch.from_dlpack(m.b)
meddle('graph', lambda t: t.backward()), m.w.grad is None  OUTSIDE['graph'] = torch.enable_grad()(m.w.sum)()
meddle('array', lambda a: a.fill(9)), float(m.large_array[5])  OUTSIDE['array'] = m.large_array[:]
meddle('small', lambda a: a.fill(9)), float(m.array[3])  OUTSIDE['small'] = m.array.T
meddle('scratch', lambda a: a.fill(9)), float(m.np_scratch[3])  OUTSIDE['scratch'] = m.np_scratch[:2].base
meddle('masked', lambda a: a.fill(9)), float(m.ma.data[0])  OUTSIDE['masked'] = m.ma.data
meddle('function', lambda f: f()), m.function.__closure__[0].cell_contents  OUTSIDE['function'] = m.function
meddle('tuple', lambda t: t[0]['deep'].append(2)), m.nested  OUTSIDE['tuple'] = m.nested
meddle('list', lambda x: x.append(2)), len(m.one)  OUTSIDE['list'] = m.one
meddle('view', lambda x: x.mapping['a'].append(2)), m.d['a']  m.d['a'] = []; OUTSIDE['view'] = m.d.items()
meddle('method', lambda f: f.__self__.__dict__.update(x=2)), m.x  OUTSIDE['method'] = m.forward
meddle('iterator', lambda i: next(i).zero_()), float(m.w[5])  OUTSIDE['iterator'] = m.parameters()
'weak' in OUTSIDE and OUTSIDE['weak']() is m.child  OUTSIDE['weak'] = m.reference
"""

# The same of parts whose state is not seen: the model is loaded anew at each call.
UNSEEN = """
m.objects.tolist()                m.objects[0].append(1)
m.objects.tolist()                m.objects[1] = 'three'
bytes(m.bytes)                    m.bytes[0] += 1
m.numbers.tolist()                m.numbers[0] += 1
m.file.getvalue()                 m.file.write(b'x')
m.random.random()                 pass
m.rng.random()                    pass
next(m.count)                     pass
next(m.iterator)                  pass
m.sparse.to_dense().tolist()      m.sparse.mul_(2)
m.csr.to_dense().tolist()         m.csr.values().mul_(2)
int(m.generator.initial_seed())   m.generator.manual_seed(5)
m.when.tzinfo.__dict__            m.when.tzinfo.seen = 1
hasattr(m.dynamic, 'seen')        m.dynamic.seen = 1
m.described.metadata['seen']      m.described.metadata['seen'].append(1)
m.log.level                       m.log.setLevel(10)
[n.meta for n in m.graph.graph.nodes]  next(iter(m.graph.graph.nodes)).meta['seen'] = 1
"""


def lines(table: str) -> list[Any]:
    rows = [line.split("  ", 1) for line in table.strip().splitlines()]
    return [pytest.param(look, change.strip(), id=f"{look} | {change.strip()}") for look, change in rows]


@pytest.fixture(scope="module")
def proved(cluster: None) -> Any:
    return TaskWrapper(hoarder(without=OPAQUE))


@pytest.fixture(scope="module")
def loaded_anew(cluster: None) -> Any:
    return TaskWrapper(hoarder(without=[]))


@pytest.mark.parametrize(("look", "change"), lines(SEEN) + lines(HELD))
def test_no_call_sees_what_another_changed(proved: Any, look: str, change: str) -> None:
    in_turn = [proved(look, change) for _ in range(6)]  # in two workers at least one has the model again
    time.sleep(PAUSE_SECONDS)
    after_a_pause = [proved(look, "pass") for _ in range(3)]
    assert len({*in_turn, *after_a_pause}) == 1


@pytest.mark.parametrize(("look", "change"), lines(UNSEEN))
def test_no_call_sees_what_another_changed_in_parts_that_the_proof_does_not_see(
    loaded_anew: Any, look: str, change: str
) -> None:
    in_turn = [loaded_anew(look, change) for _ in range(4)]
    time.sleep(PAUSE_SECONDS)
    after_a_pause = [loaded_anew(look, "pass") for _ in range(2)]
    assert len({*in_turn, *after_a_pause}) == 1


@pytest.mark.parametrize("unseen", [None, *OPAQUE])
def test_a_model_is_proved_only_if_every_part_of_it_is_seen(unseen: str | None) -> None:
    model = hoarder(without=[name for name in OPAQUE if name != unseen])
    assert (FreshState(thaw_in_view(freeze(model))).obstacle is None) == (unseen is None)


@pytest.mark.parametrize(("look", "change"), lines(SEEN) + lines(HELD))
def test_each_change_is_noticed_or_undone(look: str, change: str) -> None:
    thawed = thaw_in_view(freeze(hoarder(without=OPAQUE)))
    view = thawed.view
    state = FreshState(thawed)
    del thawed
    state.seal()
    assert state.restore()
    fresh = state.model(look, change)
    if state.restore():
        view.reset()
        assert state.model(look, "pass") == fresh


def test_the_default_dtype_goes_with_the_call_and_ends_with_it(proved: Any) -> None:
    for _ in range(3):
        assert proved("torch.get_default_dtype()", "torch.set_default_dtype(torch.float16)") == "torch.float32"
    torch.set_default_dtype(torch.float64)
    try:
        assert proved("torch.get_default_dtype(), torch.zeros(1).dtype", "pass") == "(torch.float64, torch.float64)"
    finally:
        torch.set_default_dtype(torch.float32)
    assert proved("torch.get_default_dtype()", "pass") == "torch.float32"
