# SPDX-License-Identifier: Apache-2.0
"""A drive that fails on purpose, and the simulation of a store on it (extra ``testing``: needs hypothesis).

* ``disk``: a medium beneath a page cache that forgets: what a process's end or a power cut leaves;
* ``faulty_drive``: the engine's ``Drive`` over such a disk, with a fault armed at its n-th access;
* ``model``: which values may be found under a key after all that, and which may not;
* ``draws``: the keys, values, batches and faults that histories are made of;
* ``lives``, ``traffic``: processes that start and end; what a lane and its clients do meanwhile; both with the model;
* ``simulation``: random histories of an engine on the disk: what may happen, and what must hold after each step;
* ``simulate``: many of them from given seeds, as a command.
"""
