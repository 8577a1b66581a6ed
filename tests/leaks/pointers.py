"""Memory reached by its address."""

import ctypes
import struct
import warnings

import numpy as np
import torch

from leaks.base import POINTERS, number, way


@way(POINTERS)
def data_ptr(z):
    kind = ctypes.c_double if z.dtype is torch.float64 else ctypes.c_float
    return number(kind.from_address(z.data_ptr()).value)


@way(POINTERS)
def bytes_of_the_storage(z):
    return number(max(z.untyped_storage().tolist()[: z.element_size()]) / 100)


@way(POINTERS)
def packed_bytes(z):
    return number(struct.unpack("d", struct.pack("d", z))[0])


@way(POINTERS)
def untyped_storage(z):
    return torch.tensor([]).set_(z.clone().untyped_storage())[0] * 1.0


@way(POINTERS)
def typed_storage(z):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return number(z.clone().storage()[0])


@way(POINTERS)
def dlpack(z):
    return torch.from_dlpack(z.reshape(1))[0] * 1.0


@way(POINTERS)
def dlpack_of_a_method(z):
    return torch.utils.dlpack.from_dlpack(z.reshape(1).__dlpack__())[0] * 1.0


@way(POINTERS)
def array(z):
    return torch.from_numpy(np.asarray(z.reshape(1)).copy())[0]


@way(POINTERS)
def address_of_the_tensor(z):
    assert isinstance(z._cdata, int)
    return z * 1.0
