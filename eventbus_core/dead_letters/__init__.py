"""Dead letters: the events that a group could not handle, kept until somebody redrives or drops them.

``letters`` makes records of them and reads them back, ``log`` reads a topic of them, ``index`` knows which there are,
``queue`` is what an operator holds, ``redrive`` sends them back or drops them, ``parking`` knows which keys wait for
theirs.
"""
