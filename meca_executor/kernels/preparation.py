"""What a Python kernel is told before its first cell."""

from __future__ import annotations

#: For Python: no advice after sys.exit(); and a cell is over when what its children wrote has been read.
PREPARE = """
def _meca():
    import fcntl, resource, struct, termios, time, warnings
    warnings.filterwarnings("ignore", "To exit:", UserWarning)
    def children():
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_minflt, used.ru_nvcsw, used.ru_nivcsw
    def unread(descriptor):
        try:
            return struct.unpack("i", fcntl.ioctl(descriptor, termios.FIONREAD, bytes(4)))[0]
        except OSError:
            return 0
    before = children()
    def drained(*_):
        nonlocal before
        wrote, until = before != children() or unread(1) or unread(2), time.monotonic() + 0.5
        before = children()
        while wrote and (unread(1) or unread(2)) and time.monotonic() < until:
            time.sleep(0.001)
        if wrote:
            time.sleep(0.005)  # read, and not passed on yet
    get_ipython().events.register("post_execute", drained)
_meca()
del _meca
"""
