"""Nothing of the steps is for Python."""

from aiouring._filecore import FileCall

class StepCall(FileCall): ...
