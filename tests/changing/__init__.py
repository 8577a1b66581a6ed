"""Random programs that change in the middle of a run, and what their gradients have to be after the change.

A program has two to four discrete sites, in and out of plates, and one *link*: an operation on an earlier site's value,
behind a *gate* that is shut at first. While the gate is shut, the operation cannot be seen in any number. `TOLD` are
the gates whose opening the library is told of, or whose operations it can see although they are shut: the very next
gradient has to be right. Behind the others it may be wrong until the next look (at step 10).
"""
