# ruff: noqa: E501 - one line holds several
"""The operations that random graphs are made of: `(text, rounds)` by the kinds of operands that they take.

`{0}`, `{1}` are operands; `DIM`, `DIMS`, `KEEP`, `N`, `STEP`, `AT`, `PERM`, `KIND` are drawn to fit the first operand.
`WHOLE` is the first operand in whole numbers. `rounds` is in units of the last place; 0 promises torch's result bit for bit.
Trigamma (digamma's slope) is not among them: torch's own is off by 1e-9 in double precision (the tables of `test_c_codegen.py` have it).
"""

REAL = [
    ("-{0}", 0), ("{0}.abs()", 0), ("{0}.relu()", 0), ("{0}.sign()", 0), ("{0}.sgn()", 0), ("{0}.floor()", 0),
    ("{0}.ceil()", 0), ("{0}.round()", 0), ("{0}.trunc()", 0), ("{0}.clamp(-0.5, 0.7)", 0), ("{0}.clamp(min=0.1)", 0),
    ("{0}.clamp(max=0.2)", 0), ("{0}.isnan()", 0), ("{0}.isinf()", 0), ("{0}.isfinite()", 0), ("{0} * 2", 0),
    ("{0} + 1.5", 0), ("1 - {0}", 0), ("{0} / 3", 0), ("{0} * -0.1", 0), ("{0}.square()", 0), ("{0}.abs().sqrt()", 0),
    ("{0}.reciprocal()", 0), ("2 / {0}", 0), ("{0} > 0", 0), ("{0} <= 0.3", 0), ("{0} == 0", 0), ("{0} != {0}", 0),
    ("{0}.logical_not()", 0), ("{0}.bool()", 0), ("{0}.double()", 0), ("{0}.float()", 0), ("{0} % 0.7", 0),
    ("{0} % -1.3", 0), ("{0}.nan_to_num(0.5)", 0), ("{0}.clamp(-9, 9).nan_to_num(0.0).long()", 0),
    ("{0}.clamp(-9, 9).nan_to_num(0.0).int()", 0), ("{0}.clamp(0, 9).nan_to_num(0.0).to(torch.uint8)", 0),
    ("F.leaky_relu({0}, 0.2)", 0), ("F.hardtanh({0}, -1.0, 0.5)", 0), ("F.threshold({0}, 0.1, 0.3)", 0),
    ("{0}.clamp(-9, 9).exp()", 2), ("({0}.abs() + 0.1).log()", 2), ("{0}.abs().log1p()", 2),
    ("{0}.clamp(-5, 5).expm1()", 2), ("{0}.sin()", 2), ("{0}.cos()", 2), ("{0}.tanh()", 2), ("{0}.sigmoid()", 3),
    ("{0}.erf()", 2), ("{0}.clamp(-4, 4).erfc()", 4), ("({0}.abs() + 0.3).lgamma()", 4),
    ("({0}.detach().abs() + 0.3).digamma()", 4), ("F.softplus({0})", 3), ("F.softplus(5 * {0}, beta=3.0, threshold=10)", 3),
    ("F.silu({0})", 3), ("F.gelu({0}.clamp(min=-2))", 4), ("F.elu({0}, 1.2)", 3), ("F.selu({0})", 3), ("F.logsigmoid({0})", 3),
    ("{0}.atan()", 2), ("{0}.asinh()", 3), ("{0}.clamp(-0.9, 0.9).asin()", 2), ("{0}.clamp(-0.9, 0.9).acos()", 2),
    ("{0}.clamp(-0.9, 0.9).atanh()", 3), ("({0}.abs() + 1.1).acosh()", 3), ("{0}.clamp(-4, 4).sinh()", 3),
    ("{0}.clamp(-4, 4).cosh()", 3), ("{0}.clamp(-1, 1).tan()", 2), ("({0}.abs() + 0.1) ** 1.7", 3), ("{0} ** 2", 1),
    ("{0} ** 3", 2), ("{0} ** 4", 2), ("({0}.abs() + 0.1) ** 0.5", 1), ("({0}.abs() + 0.1) ** -0.5", 2), ("{0} ** -1", 1),
    ("{0} ** -2", 2), ("2 ** {0}.clamp(-9, 9)", 3), ("({0}.abs() + 0.1).rsqrt()", 2), ("({0}.abs() + 0.1).log2()", 2),
    ("({0}.abs() + 0.1).log10()", 2), ("{0}.clamp(-9, 9).exp2()", 2),
    ("{0}.clamp(-0.9, 0.9).erfinv()", 6), ("F.mish({0})", 4), ("torch.where({0} > 0, {0}, 0.0)", 0),
    ("torch.div({0}, 0.3, rounding_mode='trunc')", 0), ("{0}.frac()", 1), ("{0}.clone()", 0), ("{0}.detach()", 0),
]  # fmt: skip

WHOLE = [
    ("{0} + 2", 0), ("{0} * 3", 0), ("3 - {0}", 0), ("{0} + 2 * {0}", 0), ("-{0}", 0), ("{0}.abs()", 0), ("{0} // 2", 0),
    ("{0} % 4", 0), ("{0} & 5", 0), ("{0} | 8", 0), ("{0} ^ 3", 0), ("~{0}", 0), ("{0}.sign()", 0), ("{0} >> 1", 0),
    ("{0} << 2", 0), ("{0}.clamp(1, 5)", 0), ("{0}.clamp(max=3)", 0), ("{0} > 1", 0), ("{0} == 2", 0), ("{0} > 0.5", 0),
    ("{0}.float()", 0), ("{0}.double()", 0), ("{0}.bool()", 0), ("{0}.int()", 0), ("{0}.long()", 0), ("{0} / 4", 0),
    ("{0} * 0.3", 0), ("{0} ** 2", 0), ("{0}.square()", 0), ("{0}.relu()", 0), ("{0}.logical_not()", 0),
    ("({0} % 7).to(torch.uint8)", 0), ("F.one_hot(WHOLE % 3, 3)", 0), ("{0}.sin()", 2),
    ("{0}.abs().log1p()", 2), ("{0} - 0.25", 0), ("{0}.clamp(-3, 3).exp()", 2), ("{0}.reciprocal()", 0),
    ("torch.div({0}, 3, rounding_mode='trunc')", 0), ("torch.div({0}, 3, rounding_mode='floor')", 0), ("{0} >= -1", 0),
]  # fmt: skip

TRUTH = [
    ("~{0}", 0), ("{0}.logical_not()", 0), ("{0}.float()", 0), ("{0}.double()", 0), ("{0}.long()", 0), ("{0} * 0.5", 0),
    ("{0} * 3", 0), ("{0} + 1", 0), ("{0} + {0}", 0), ("{0} | {0}", 0), ("{0} & True", 0), ("{0} ^ True", 0),
    ("{0} == 1", 0), ("{0}.int()", 0), ("{0}.to(torch.uint8)", 0), ("{0} > 0.5", 0), ("{0} / 2", 0),
    ("torch.where({0}, 2.5, -1)", 0), ("torch.where({0}, 2, 3)", 0),
]  # fmt: skip

TWO = [
    ("{0} + {1}", 0), ("{0} - {1}", 0), ("{0} * {1}", 0), ("{0} / {1}", 0), ("torch.maximum({0}, {1})", 0),
    ("torch.minimum({0}, {1})", 0), ("{0} > {1}", 0), ("{0} <= {1}", 0), ("{0} == {1}", 0), ("{0} != {1}", 0),
    ("{0}.logical_and({1})", 0), ("{0}.logical_or({1})", 0), ("{0}.logical_xor({1})", 0), ("{0} & {1}", 0),
    ("{0} | {1}", 0), ("{0} ^ {1}", 0), ("{0} % {1}.abs().add(0.5)", 1), ("{0} % ({1}.abs() + 2)", 0),
    ("{0}.atan2({1})", 3), ("({0}.abs() + 0.1) ** {1}.clamp(-2, 2)", 4), ("torch.logaddexp({0}, {1})", 3),
    ("torch.xlogy({0}, {1}.abs())", 3), ("torch.special.xlog1py({0}, {1}.abs())", 3), ("torch.hypot({0}, {1})", 2),
    ("torch.where({0} > 0, {0}, {1})", 0), ("torch.where({1} > {0}, {1}, 0.5)", 0), ("{0}.masked_fill({1} > 0, 1.5)", 0),
    ("{0}.masked_fill({1} > 0, 2)", 0), ("torch.lerp({0}, {1}, 0.3)", 3), ("torch.lerp({0}, {1}, 0.8)", 3),
    ("torch.add({0}, {1}, alpha=2)", 1), ("torch.sub({0}, {1}, alpha=3)", 1), ("torch.rsub({0}, {1})", 0),
    ("torch.addcmul({0}, {1}, {1}, value=0.5)", 2), ("torch.addcdiv({0}, {1}, {0}.abs() + 1, value=0.1)", 3),
    ("torch.fmod({0}, {1}.abs() + 2)", 0), ("torch.copysign({0}, {1})", 0), ("{0}.clamp(min={1})", 0),
    ("{0}.clamp(max={1})", 0), ("{0}.clamp({1} - 1, {1} + 1)", 0), ("torch.max({0}, {1})", 0), ("torch.min({0}, {1})", 0),
    ("F.binary_cross_entropy_with_logits({0}, ({1} > 0).to({0}.dtype), reduction='none')", 4),
    ("F.mse_loss({0}, {1}, reduction='none')", 1), ("{0}.expand_as({0} + {1})", 0), ("{0} >> ({1} & 3)", 0),
    ("torch.div({0}, {1}.abs() + 1, rounding_mode='trunc')", 0), ("torch.heaviside({0}, {1})", 0),
    ("torch.broadcast_tensors({0}, {1})[1] * 2", 0), ("F.smooth_l1_loss({0}, {1}, reduction='none')", 3),
]  # fmt: skip

REDUCED = [
    ("{0}.sum()", 1), ("{0}.sum(DIM)", 1), ("{0}.sum(DIMS, keepdim=KEEP)", 1), ("{0}.mean(DIM, keepdim=KEEP)", 2),
    ("{0}.mean()", 2), ("{0}.mean(DIMS)", 2), ("{0}.prod()", 3), ("{0}.prod(DIM, keepdim=KEEP)", 3),
    ("{0}.amax(DIM, keepdim=KEEP)", 0), ("{0}.amin(DIMS)", 0), ("{0}.max()", 0), ("{0}.min()", 0),
    ("{0}.max(DIM).values", 0), ("{0}.min(DIM, keepdim=KEEP).values", 0), ("{0}.max(DIM).indices", 0),
    ("{0}.min(DIM).indices", 0), ("{0}.argmax()", 0), ("{0}.argmax(DIM, keepdim=KEEP)", 0), ("{0}.argmin(DIM)", 0),
    ("{0}.any()", 0), ("{0}.all()", 0), ("{0}.any(DIM, keepdim=KEEP)", 0), ("{0}.all(DIM)", 0),
    ("{0}.logsumexp(DIM, keepdim=KEEP)", 4), ("{0}.logsumexp(DIMS)", 4), ("{0}.std(DIM)", 4), ("{0}.var()", 4),
    ("{0}.norm()", 4), ("{0}.cumsum(DIM)", 1), ("{0}.cumprod(DIM)", 3), ("{0}.cummax(DIM).values", 0),
    ("{0}.logcumsumexp(DIM)", 4), ("{0}.softmax(DIM)", 4), ("{0}.log_softmax(DIM)", 4), ("{0}.sort(DIM).values", 0),
    ("{0}.sum(DIM, dtype=torch.float64)", 1), ("{0}.sum(dtype=torch.int64)", 0), ("{0}.cumsum(DIM, dtype=KIND)", 1),
    ("{0}.sum(DIM, dtype=KIND)", 1), ("{0}.prod(DIM, dtype=KIND)", 3), ("{0}.count_nonzero(DIM)", 0),
    ("{0}.softmax(DIM, dtype=torch.float64)", 4), ("{0}.diff(dim=DIM)", 0), ("F.layer_norm({0}, {0}.shape[-1:])", 8),
    ("F.normalize({0}, dim=DIM)", 5), ("{0}.median(DIM).values", 0), ("{0}.topk(1, DIM).values", 0),
]  # fmt: skip

MOVED = [
    ("{0}.t()", 0), ("{0}.mT", 0), ("{0}.permute(PERM)", 0), ("{0}.permute(PERM).contiguous()", 0),
    ("{0}.reshape(-1)", 0), ("{0}.reshape(-1, 1)", 0), ("{0}.permute(PERM).reshape(-1)", 0), ("{0}.unsqueeze(DIM)", 0),
    ("{0}.squeeze()", 0), ("{0}.squeeze(DIM)", 0), ("{0}.expand(2, *{0}.shape)", 0), ("{0}[..., ::2]", 0),
    ("{0}[1:]", 0), ("{0}[:-1]", 0), ("{0}[..., 1:]", 0), ("{0}[AT]", 0), ("{0}[..., AT]", 0), ("{0}[:, AT]", 0),
    ("{0}[None]", 0), ("{0}[..., None]", 0), ("{0}.select(DIM, AT)", 0), ("{0}.narrow(DIM, AT, 1)", 0),
    ("{0}.flip(DIM)", 0), ("{0}.flip(DIMS)", 0), ("{0}.diagonal()", 0), ("{0}.diagonal(1)", 0),
    ("torch.diag_embed({0})", 0), ("{0}.unbind(DIM)[AT]", 0), ("{0}.split(2, DIM)[0]", 0), ("{0}.chunk(2, DIM)[-1]", 0),
    ("{0}.tril()", 0), ("{0}.triu(1)", 0), ("{0}.tril(-1)", 0), ("{0}.roll(1, DIM)", 0), ("{0}.repeat(2, *[1] * ({0}.dim() - 1))", 0),
    ("{0}.unfold(DIM, 2, 1)", 0), ("F.pad({0}, (1, 2))", 0), ("F.pad({0}, (-1, 1))", 0), ("{0}.movedim(0, -1)", 0),
    ("torch.cat([{0}, {0} * 2], DIM)", 0), ("torch.cat([{0}[:0], {0}, {0}[:1]])", 0), ("torch.stack([{0}, {0} * 2], DIM)", 0),
    ("torch.cat([-{0}.reshape(-1), {0}.reshape(-1)])", 0), ("{0} + torch.zeros_like({0})", 0), ("torch.ones_like({0}) * {0}", 0),
    ("{0}.new_full((3,), 2) + {0}.reshape(-1)[:1]", 0), ("torch.full((2, 3), 0.5) * {0}.reshape(-1)[:1]", 0),
    ("torch.arange({0}.shape[-1]) + {0}", 0), ("torch.eye({0}.shape[-1]) * {0}", 0), ("torch.arange(0.5, 4.0) * {0}[..., :1]", 0),
    ("{0}.contiguous()", 0), ("{0}[:0].sum() + {0}", 0), ("{0}.as_strided({0}.shape, {0}.stride())", 0), ("{0}.repeat_interleave(2, DIM)", 0),
]  # fmt: skip

JOINED = [
    ("torch.cat([{0}, {1}], DIM)", 0), ("torch.cat([{0}, {1}, {0}])", 0), ("torch.stack([{0}, {1}])", 0),
    ("torch.stack([{0}, {1}], -1)", 0), ("torch.cat([{0}.reshape(-1), {1}.reshape(-1)])", 0),
    ("torch.cat([-{0}.reshape(-1), {1}.t().reshape(-1)])", 0), ("torch.select_scatter({0}, {1}, 0, AT)", 0),
    ("torch.slice_scatter({0}, {1}, 0, 1, 1 + {1}.shape[0])", 0), ("torch.outer({0}, {1})", 0),
    ("{0}.reshape(-1)[:3] + {1}.reshape(-1)[:3]", 0), ("torch.hstack([{0}, {1}])", 0),
]  # fmt: skip

MULTIPLIED = [
    ("{0} @ {1}", 4), ("{0}.mT @ {1}", 4), ("{0} @ {1}.mT", 4), ("-({0} @ {1})", 4), ("{0} @ {0}.mT", 4), ("{0}.mT @ {0}", 4),
    ("torch.dot({0}.reshape(-1), {0}.reshape(-1))", 4), ("torch.addmm({0}[0], {0}, {1})", 4), ("F.linear({0}, {1})", 4),
    ("{0}.reshape(-1, 1) @ {1}.reshape(1, -1)", 4), ("torch.einsum('ij,ij->i', {0}, {1})", 4),
    ("torch.einsum('ij,kj->ik', {0}, {1})", 4), ("torch.cat([-({0} @ {1}).reshape(-1), {0}.reshape(-1)])", 4),
    ("torch.mv({0}, {1})", 4), ("{0}[None] @ {1}", 4), ("torch.addmm({0}, {0}, {1}, beta=0.5, alpha=2)", 4),
]  # fmt: skip

LOOKED_UP = [
    ("{0}[INDEX]", 0), ("{0}[:, INDEX]", 0), ("{0}[..., INDEX]", 0), ("{0}[INDEX2D]", 0), ("{0}.index_select(DIM, INDEX)", 0),
    ("{0}[INDEX - {0}.shape[0]]", 0), ("{0}.gather(0, INDEX.reshape(-1, *[1] * ({0}.dim() - 1)).expand(-1, *{0}.shape[1:]))", 0),
    ("{0}.take_along_dim(WHOLE % {0}.shape[0], 0)", 0), ("{0}.gather(0, WHOLE.abs() % {0}.shape[0])", 0),
    ("F.embedding(INDEX, {0})", 0), ("{0}.index_add(0, INDEX, {0}[INDEX] * 2)", 1),
    ("{0}.index_add(0, INDEX, {0}[INDEX], alpha=2)", 1), ("{0}.index_copy(0, ORDER, {0} + 1)", 0),
    ("{0}.scatter_add(0, WHOLE.abs() % {0}.shape[0], {0})", 1), ("{0}.index_put((INDEX,), {0}[INDEX], True)", 1),
    ("{0}.index_put((ORDER,), {0} * 2)", 0), ("{0}.scatter(0, ORDER.reshape(-1, *[1] * ({0}.dim() - 1)).expand({0}.shape), {0} + 1)", 0),
    ("{0}.scatter(0, INDEX.reshape(-1, *[1] * ({0}.dim() - 1)).expand(-1, *{0}.shape[1:]), 2)", 0),
    ("{0}.scatter(0, INDEX.reshape(-1, *[1] * ({0}.dim() - 1)).expand(-1, *{0}.shape[1:]), 0.5)", 0),
    ("{0}.scatter(0, WHOLE.abs() % {0}.shape[0], {0}, reduce='add')", 1),
    ("{0}.scatter(0, INDEX.reshape(-1, *[1] * ({0}.dim() - 1)).expand(-1, *{0}.shape[1:]), math.inf)", 0),
    ("{0}.index_fill(0, INDEX, 3)", 0), ("{0}.index_select(0, WHOLE.reshape(-1)[:2].abs() % {0}.shape[0])", 0),
    ("{0}[WHOLE.reshape(-1)[:3] % {0}.shape[0]]", 0), ("{0}[torch.tensor(AT)].clone()", 0), ("{0}[INDEX, INDEX - 1]", 0),
    ("{0}.take(WHOLE.abs() % {0}.numel())", 0), ("{0}.put(INDEX, {0}.reshape(-1)[INDEX], accumulate=True)", 1),
    ("{0}[WHOLE.reshape(-1)[0].abs() % {0}.shape[0]].clone()", 0),
]  # fmt: skip

WRITTEN = [
    ("{0}.add_(1)", 0), ("{0}.mul_(2)", 0), ("{0}.neg_()", 0), ("{0}.zero_()", 0), ("{0}.fill_(2)", 0), ("{0}.abs_()", 0),
    ("{0}.clamp_(-1, 2)", 0), ("{0}.relu_()", 0), ("{0}.tanh_()", 2), ("{0}.sigmoid_()", 3), ("{0}.pow_(2)", 1),
    ("{0}.cumsum_(DIM)", 1), ("{0}.tril_()", 0), ("{0}.masked_fill_({0} > 1, 1)", 0), ("{0}.logical_not_()", 0),
    ("{0}.squeeze_()", 0), ("{0}.unsqueeze_(DIM)", 0), ("{0}.t_()", 0), ("{0}[1:].mul_(3)", 0), ("{0}[..., 0].add_(1)", 0),
    ("{0}[::2].zero_()", 0), ("{0}.diagonal().fill_(2)", 0), ("put({0}, AT, 5)", 0), ("put({0}, (..., AT), 1)", 0),
    ("{0}.index_fill_(0, INDEX, 2)", 0), ("{0}.mul_(0.5)", 0), ("{0}.t().add_(2)", 0), ("{0}.reshape(-1)[:2].mul_(2)", 0),
    ("put({0}, ORDER, {0}[ORDER] + 1)", 0), ("{0}.scatter_(0, INDEX.reshape(-1, *[1] * ({0}.dim() - 1)).expand(-1, *{0}.shape[1:]), 1)", 0),
    ("{0}.bernoulli_(1.0)", 0), ("{0}.flip(0).sub_(1)", 0), ("{0}.exponential_(1.0).zero_()", 0), ("{0}.ge_(0)", 0),
]  # fmt: skip

WRITTEN_FROM = [
    ("{0}.add_({1})", 0), ("{0}.sub_({1})", 0), ("{0}.mul_({1})", 0), ("{0}.copy_({1})", 0), ("{0}.div_({1}.abs() + 1)", 0),
    ("{0}[:1].copy_({1})", 0), ("{0}[..., 0].add_({1})", 0), ("{0}.lerp_({1}, 0.3)", 3), ("put({0}, AT, {1})", 0),
    ("put({0}, slice(1, None), {1})", 0), ("{0}.masked_fill_({1} > 0, 2)", 0), ("{0}.index_add_(0, INDEX, {1}[INDEX])", 1),
    ("{0}.addcmul_({1}, {1})", 2), ("{0}.clamp_(min={1})", 0), ("{0}.remainder_({1}.abs() + 1)", 0),
    ("{0}.scatter_add_(0, WHOLE.abs() % {0}.shape[0], {1})", 1), ("{0}.index_copy_(0, ORDER, {1})", 0),
    ("{0}.index_put_((INDEX,), {1}[INDEX], True)", 1), ("{0}.gt_({1})", 0), ("{0}.add_({1}, alpha=2)", 1), ("{0}.t().mul_({1})", 0),
    ("{0}.logical_and_({1})", 0), ("{0}.addmm_({1}, {1})", 4), ("torch.Tensor.__ior__({0}, {1})", 0), ("{0}.atan2_({1})", 3),
]  # fmt: skip
