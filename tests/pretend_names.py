"""What torch's functions do, by their names: for a pretended device."""

COPIES = {"to", "cpu", "copy_", "pin_memory", "is_pinned"}
# What makes a tensor of the host's numbers.
COPYING = {"tensor", "as_tensor", "asarray", "new_tensor"}
# What tells the host a tensor's values.
VALUES = {
    *("item", "tolist", "numpy", "equal", "allclose", "is_nonzero", "__repr__", "__format__"),
    *("__bool__", "__int__", "__float__", "__complex__", "__index__", "__array__", "__contains__"),
}
# What makes a tensor whose size is on the device.
SIZES = {"nonzero", "masked_select", "unique", "unique_consecutive", "argwhere", "bincount"}
RANDOM = {
    *("rand", "randn", "randint", "randperm", "rand_like", "randn_like", "randint_like", "normal"),
    *("uniform_", "normal_", "random_", "exponential_", "bernoulli_", "bernoulli", "multinomial"),
    *("dropout", "dropout_"),
}
INDEXED = {"__getitem__", "__setitem__", "index_put", "index_put_", "where"}
# What takes no number of the host in place of a tensor.
GATHERS = {"cat", "stack", "concat", "index_select", "index_copy_", "gather", "scatter_", "linear"}
# What the host knows without asking.
FACTS = {
    *("size", "stride", "dim", "numel", "is_contiguous", "untyped_storage", "data_ptr", "__len__"),
    *("element_size", "is_floating_point", "is_complex", "is_inference", "storage_offset"),
    *("__hash__", "requires_grad_", "nelement"),
    *("shape", "dtype", "ndim", "requires_grad", "itemsize", "nbytes", "layout", "is_meta"),
}
INPLACE = {
    *("__setitem__", "__iadd__", "__isub__", "__imul__", "__itruediv__", "__ifloordiv__"),
    *("__imod__", "__ipow__", "__ior__", "__iand__", "__ixor__", "__ilshift__", "__irshift__"),
    "__imatmul__",
}
