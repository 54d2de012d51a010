"""How much memory work holds at once."""

from torch.profiler import ProfilerActivity, profile


def peak(work):
    """The most bytes that the CPU's allocator held at once for tensors made in `work`."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as run:
        work()
    events = [e for e in run.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most
