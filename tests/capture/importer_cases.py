"""Calls of torch operators by family, as functions of shared inputs.

x and y are f32 [B, 4, 6], i is i64 [B, 4] below 4, m is bool [B, 4, 6], p is f32 [B, 4, 6] above 0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

Function = Callable[..., Any]

FAMILIES: dict[str, list[Function]] = {
    "unary": [
        lambda x, y, i, m, p: [
            f(x)
            for f in (
                torch.abs,
                torch.neg,
                torch.sign,
                torch.floor,
                torch.ceil,
                torch.trunc,
                torch.round,
                torch.frac,
                torch.exp,
                torch.expm1,
                torch.sin,
                torch.cos,
                torch.tan,
                torch.atan,
                torch.sinh,
                torch.cosh,
                torch.tanh,
                torch.asinh,
                torch.sigmoid,
                torch.erf,
                torch.erfc,
                torch.square,
                torch.reciprocal,
                torch.isnan,
                torch.isfinite,
            )
        ],
        lambda x, y, i, m, p: [
            f(p)
            for f in (
                torch.log,
                torch.log2,
                torch.log10,
                torch.log1p,
                torch.sqrt,
                torch.rsqrt,
                torch.lgamma,
                torch.digamma,
            )
        ],
        lambda x, y, i, m, p: [
            torch.exp(i),
            torch.sqrt(i),
            i.neg(),
            ~m,
            ~i,
            m.logical_not(),
            i.abs(),
            torch.round(x, decimals=1),
        ],
        lambda x, y, i, m, p: [
            torch.asin(p / 9),
            torch.acos(p / 9),
            torch.atanh(p / 9),
            torch.acosh(p + 1),
            torch.erfinv(p / 9),
        ],
        lambda x, y, i, m, p: [torch.logit(p / 9), torch.nan_to_num(x / (x * 0)), torch.deg2rad(x), torch.sinc(x)],
    ],
    "activations": [
        lambda x, y, i, m, p: [
            f(x)
            for f in (
                F.relu,
                F.relu6,
                F.silu,
                F.mish,
                F.softplus,
                F.gelu,
                F.hardswish,
                F.hardsigmoid,
                F.hardtanh,
                F.leaky_relu,
                F.elu,
                F.selu,
                F.celu,
                F.logsigmoid,
                F.tanhshrink,
                F.softsign,
                F.softshrink,
                F.hardshrink,
            )
        ],
        lambda x, y, i, m, p: [F.gelu(x, approximate="tanh"), F.threshold(x, 0.1, -2.0), F.glu(x, 1), F.elu(x, 0.5)],
        lambda x, y, i, m, p: [
            F.softplus(x, 2.0, 1.0),
            F.prelu(x, p[0, :, 0]),
            F.hardtanh(x, -0.5, 0.7),
            F.dropout(x, 0.5, False),
        ],
    ],
    "binary": [
        lambda x, y, i, m, p: [
            x + y,
            x - y,
            x * y,
            x / y,
            x // y,
            x % y,
            p**y,
            x**2,
            x**3,
            p**-0.5,
            p**1.7,
            2**x,
            x**-1,
        ],
        lambda x, y, i, m, p: [
            torch.add(x, y, alpha=2),
            torch.sub(x, y, alpha=0.5),
            torch.rsub(x, y, alpha=3),
            1 - x,
            2 / p,
        ],
        lambda x, y, i, m, p: [torch.fmod(x, p), torch.remainder(x, 0.3), torch.maximum(x, y), torch.minimum(x, y)],
        lambda x, y, i, m, p: [
            torch.fmax(x, y),
            torch.fmin(x, y),
            torch.atan2(x, y),
            torch.hypot(x, y),
            torch.copysign(x, y),
        ],
        lambda x, y, i, m, p: [
            torch.xlogy(x, p),
            torch.logaddexp(x, y),
            torch.heaviside(x, y),
            torch.floor_divide(x, p),
        ],
        lambda x, y, i, m, p: [
            torch.div(x, p, rounding_mode="trunc"),
            torch.div(i, 3, rounding_mode="floor"),
            i // 2,
            i / 2,
        ],
        lambda x, y, i, m, p: [x == y, x != 0, x < y, x <= 0.5, x > y, x >= y, i == 2, m == False],  # noqa: E712
        lambda x, y, i, m, p: [
            m & (x > 0),
            m | (x > 0),
            m ^ (x > 0),
            i & 3,
            i | 4,
            i ^ 1,
            i << 1,
            i >> 1,
            m.logical_and(i[:, :, None]),
        ],
        lambda x, y, i, m, p: [i + 0.5, i * x[:, :, 0], m * 2, m + m, i + m[:, :, 0], x + m],
        lambda x, y, i, m, p: [
            torch.lerp(x, y, 0.3),
            torch.lerp(x, y, p),
            torch.addcmul(x, y, p, value=2),
            torch.addcdiv(x, y, p),
        ],
        lambda x, y, i, m, p: [
            torch.where(m, x, y),
            torch.where(m, x, 1.0),
            torch.where(m, 2, 3),
            x.masked_fill(m, -1.0),
        ],
        lambda x, y, i, m, p: [x.clamp(-0.5, 0.5), x.clamp(min=y), x.clamp_min(0), x.clamp_max(0.1), i.clamp(1, 2)],
        lambda x, y, i, m, p: [
            x.to(torch.float64) + y,
            x.to(torch.bfloat16) * 1.1,
            x.to(torch.int64),
            m.float(),
            x.type_as(i),
        ],
        lambda x, y, i, m, p: [torch.isclose(x, y), torch.complex(x, y), torch.view_as_real(torch.complex(x, y) * 2)],
    ],
    "creation": [
        lambda x, y, i, m, p: [
            torch.zeros_like(x),
            x.new_ones(2, 3),
            torch.full((2,), 3),
            x.new_full((2,), 1.5),
            torch.eye(3),
        ],
        lambda x, y, i, m, p: [
            torch.arange(5),
            torch.arange(1, 9, 2),
            torch.arange(0, 1, 0.25),
            torch.linspace(0, 1, 5),
        ],
        lambda x, y, i, m, p: [torch.zeros(x.shape[0], 2), torch.arange(x.shape[0]), torch.full((2,), x.shape[0])],
        lambda x, y, i, m, p: [F.one_hot(i, 4), torch.tensor([1.0, 2.0]) * x[0, 0, 0], torch.tril_indices(3, 3)],
        lambda x, y, i, m, p: [torch.scalar_tensor(2.5), torch.ones(3, dtype=torch.int32), torch.logspace(0, 1, 3)],
    ],
    "shape": [
        lambda x, y, i, m, p: [
            x.reshape(-1, 24),
            x.flatten(1),
            x.view(x.shape[0], 2, 2, 6),
            x.unflatten(2, (2, 3)),
            x.mT,
        ],
        lambda x, y, i, m, p: [
            x.transpose(1, 2),
            x.permute(2, 0, 1),
            x.movedim(0, 2),
            x[:, None],
            x.unsqueeze(-1),
            x[..., :1].squeeze(-1),
        ],
        lambda x, y, i, m, p: [
            x[:, 1:3],
            x[:, -2:],
            x[:, ::2],
            x[:, :-1],
            x[:, 1],
            x[:, -1],
            x[..., 2:100],
            x[1:],
            x[:-1],
        ],
        lambda x, y, i, m, p: [
            torch.cat([x, y], 1),
            torch.cat([x, i[:, :, None]], 2),
            torch.stack([x, y], 1),
            torch.hstack([x, y]),
        ],
        lambda x, y, i, m, p: [
            *x.split(2, 1),
            *x.split([1, 3], 1),
            *x.chunk(4, 2),
            *x.unbind(1),
            *torch.tensor_split(x, 3, 2),
        ],
        lambda x, y, i, m, p: [
            x.flip(1),
            x.roll(1, 2),
            x.roll((1, -1), (1, 2)),
            x.repeat(2, 1, 3),
            x.repeat_interleave(2, 1),
            x.tile(2),
        ],
        lambda x, y, i, m, p: [
            x.expand(3, *x.shape),
            x[:, :1].expand_as(x),
            x.unfold(2, 3, 2),
            x.diagonal(0, 1, 2),
            torch.diag_embed(i),
        ],
        lambda x, y, i, m, p: [
            F.pad(x, (1, 2)),
            F.pad(x, (1, 1), "reflect"),
            F.pad(x, (2, 1), "replicate"),
            F.pad(x, (2, 1), "circular"),
        ],
        lambda x, y, i, m, p: [
            F.pad(x, (-1, 2, 1, -1), value=3.0),
            F.unfold(x[:, None], 2),
            F.fold(F.unfold(x[:, None], 2), (4, 6), 2),
        ],
        lambda x, y, i, m, p: [
            F.pixel_shuffle(x[:, :, None], 2),
            F.pixel_unshuffle(x[:, None], 2),
            F.channel_shuffle(x[:, :, None], 2),
        ],
        lambda x, y, i, m, p: [
            *torch.meshgrid(x[0, 0], x[0, :, 0], indexing="xy"),
            x.as_strided((2, 3), (6, 2)),
            y.as_strided((x.shape[0], 3, 5), (24, 6, 1), 1),
            y.as_strided((2 * x.shape[0] - 1, 12, 2), (12, 1, 5)),
            torch.rot90(x, 1, [1, 2]),
        ],
    ],
    "reductions": [
        lambda x, y, i, m, p: [
            x.sum(),
            x.sum(1),
            x.sum((1, 2), keepdim=True),
            x.mean(-1),
            i.sum(),
            m.sum(1),
            p.prod(2),
        ],
        lambda x, y, i, m, p: [
            x.amax(1),
            x.amin((0, 2)),
            x.max(),
            x.min(),
            m.any(),
            m.all(1),
            x.logsumexp(2),
            m.any((1, 2)),
        ],
        lambda x, y, i, m, p: [x.var(1), x.std(2, unbiased=False), *torch.var_mean(x, 1), x.var((1, 2), keepdim=True)],
        lambda x, y, i, m, p: [
            x.norm(dim=1),
            x.norm(1, dim=2),
            torch.linalg.vector_norm(x, float("inf"), 1),
            x.norm(),
            x.abs().mean(),
        ],
        lambda x, y, i, m, p: [
            x.argmax(1),
            x.argmin(2, keepdim=True),
            x.argmax(),
            *x.max(1),
            *x.min(2),
            x.count_nonzero(1),
        ],
        lambda x, y, i, m, p: [
            x.cumsum(1),
            i.cumsum(1),
            p.cumprod(2),
            *x.cummax(1),
            x.logcumsumexp(2),
            x.diff(),
            m.int().cumsum(1),
        ],
        lambda x, y, i, m, p: [
            torch.histc(i.float(), 4, 0, 3),
            x.sum(1, dtype=torch.float64),
            x.nansum(1),
            x.aminmax(dim=1),
        ],
    ],
    "products": [
        lambda x, y, i, m, p: [
            x @ y.mT,
            torch.bmm(x, y.mT),
            x[0] @ y[0].T,
            x[0, 0] @ y[0, 0],
            x @ y[0, 0],
            x[0, 0] @ y.mT,
        ],
        lambda x, y, i, m, p: [
            torch.addmm(x[0] @ y[0].T, x[0], y[0].T, beta=0.5, alpha=2),
            torch.baddbmm(x @ y.mT, x, y.mT),
        ],
        lambda x, y, i, m, p: [
            F.linear(x, y[0]),
            F.linear(x, y[0], p[0, :, 0]),
            torch.outer(x[0, 0], y[0, 0]),
            F.cosine_similarity(x, y, 2),
        ],
        lambda x, y, i, m, p: [
            torch.einsum("bij,bkj->bik", x, y),
            torch.einsum("bij,bij->b", x, y),
            torch.einsum("bij->ji", x),
        ],
        lambda x, y, i, m, p: [
            torch.einsum("bij,kj->bki", x, y[0]),
            torch.einsum("...ij,...kj->...ik", x, y),
            torch.einsum("i,j->ij", x[0, 0], y[0, 0]),
        ],
        lambda x, y, i, m, p: [
            torch.einsum("bij,bkj,bk->bi", x, y, p[:, :, 0]),
            torch.cdist(x, y),
            torch.tensordot(x, y[0], ([2], [1])),
        ],
        lambda x, y, i, m, p: [
            F.bilinear(x, y, p[0][:, :, None].expand(4, 6, 6)),
            torch.linalg.norm(x, dim=2),
            torch.cross(x[..., :3], y[..., :3], dim=2),
        ],
    ],
    "attention and norms": [
        lambda x, y, i, m, p: [F.scaled_dot_product_attention(x[:, None], y[:, None], y[:, None])],
        lambda x, y, i, m, p: [
            F.scaled_dot_product_attention(x, y, p, is_causal=True),
            F.scaled_dot_product_attention(x, y, p, scale=0.3),
        ],
        lambda x, y, i, m, p: [
            F.scaled_dot_product_attention(x, y, y, attn_mask=m[:, :, :4] | torch.eye(4, dtype=torch.bool))
        ],
        lambda x, y, i, m, p: [
            F.scaled_dot_product_attention(
                x[:, :, None].expand(-1, 4, 3, 6), y[:, :2, None], y[:, :2, None], enable_gqa=True
            )
        ],
        lambda x, y, i, m, p: [
            F.layer_norm(x, (6,)),
            F.layer_norm(x, (4, 6), p[0], y[0]),
            F.rms_norm(x, (6,), p[0, 0], 1e-5),
            F.rms_norm(x, (6,)),
        ],
        lambda x, y, i, m, p: [F.group_norm(x, 2), F.group_norm(x, 2, p[0, :, 0], y[0, :, 0]), F.instance_norm(x)],
        lambda x, y, i, m, p: [
            F.batch_norm(x, y[0, :, 0], p[0, :, 0]),
            F.batch_norm(x, y[0, :, 0], p[0, :, 0], p[0, :, 1], y[0, :, 1]),
        ],
        lambda x, y, i, m, p: [
            x.softmax(1),
            x.log_softmax(-1),
            F.softmin(x, 2),
            i.softmax(1, dtype=torch.float32),
            F.normalize(x, dim=1),
        ],
        lambda x, y, i, m, p: [
            F.local_response_norm(x, 3),
            F.cross_entropy(x, i[:, :1].expand(-1, 6)),
            F.mse_loss(x, y),
        ],
    ],
    "convolution and pooling": [
        lambda x, y, i, m, p: [
            F.conv1d(x, y[:2, :, :3]),
            F.conv1d(x, y[:2, :, :3], padding=2, stride=2, dilation=2),
            F.conv1d(x[0], y[:1, :, :2]),
        ],
        lambda x, y, i, m, p: [
            F.conv1d(x, y[:, :1, :3].reshape(-1, 1, 3)[:1].expand(4, 1, 3), groups=4, padding="same")
        ],
        lambda x, y, i, m, p: [
            F.conv2d(x[:, None], y[:2, None, :3, :3], padding="same"),
            F.conv3d(x[:, None, None], y[:1, None, None, :2, :2]),
        ],
        lambda x, y, i, m, p: [
            F.conv_transpose1d(x, y[0, :, :3, None].mT.expand(4, 3, 3)),
            F.conv_transpose2d(x[:, None], y[:1, None], stride=2, padding=1, output_padding=1),
        ],
        lambda x, y, i, m, p: [
            F.max_pool1d(x, 2),
            F.max_pool2d(x, 3, 2, 1, ceil_mode=True),
            F.max_pool1d(x, 2, dilation=2, stride=1),
        ],
        lambda x, y, i, m, p: [
            F.avg_pool1d(x, 3, 2, 1),
            F.avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False),
            F.avg_pool2d(x, 2, divisor_override=3),
        ],
        lambda x, y, i, m, p: [
            F.adaptive_avg_pool1d(x, 3),
            F.adaptive_avg_pool2d(x, 1),
            F.adaptive_max_pool1d(x, 2),
            F.lp_pool1d(p, 2, 2),
        ],
        lambda x, y, i, m, p: [
            *F.max_pool2d(x[:, None], 2, return_indices=True),
            F.adaptive_avg_pool2d(x, (2, 4)),
            F.adaptive_avg_pool3d(x[:, None], 2),
        ],
        lambda x, y, i, m, p: [
            F.interpolate(x, scale_factor=2),
            F.interpolate(x, 9, mode="linear"),
            F.interpolate(x[:, None], (8, 9), mode="bilinear"),
        ],
        lambda x, y, i, m, p: [
            F.interpolate(x[:, None], (8, 9), mode="bicubic", align_corners=True),
            F.interpolate(x[:, None], scale_factor=0.5, mode="bilinear", antialias=True),
        ],
        lambda x, y, i, m, p: [
            F.grid_sample(x[:, None], y.tanh()[:, :, :4].reshape(-1, 4, 2, 2), align_corners=False),
            F.interpolate(x, 7, mode="nearest-exact"),
        ],
    ],
    "indexing": [
        lambda x, y, i, m, p: [F.embedding(i, x[0]), x.gather(1, i[:, :, None]), x.index_select(1, i[0])],
        lambda x, y, i, m, p: [
            x[:, i[0]],
            x[torch.arange(x.shape[0])[:, None], i],
            x[:, i[0], i[0]],
            x[0, i],
            x[..., [0, 2]],
            x.take(i),
        ],
        lambda x, y, i, m, p: [
            x.index_put((i[:, 0] * 0,), y[0]),
            x.index_add(1, i[0], y),
            x.index_copy(1, torch.tensor([2, 0]), y[:, :2]),
            x.index_fill(1, i[0, :1], 2.0),
        ],
        lambda x, y, i, m, p: [
            x.scatter(1, i[:, :, None], y),
            x.scatter(2, i[:, :, None], 1.5),
            x.scatter_add(1, i[:, :, None], y),
        ],
        lambda x, y, i, m, p: [
            x.scatter_reduce(1, i[:, :, None], y, "amax"),
            x.scatter_reduce(1, i[:, :, None], y, "mean", include_self=False),
        ],
        lambda x, y, i, m, p: [
            x.slice_scatter(y[:, :2], 1, 1, 3),
            x.select_scatter(y[:, 0], 1, -1),
            x.masked_scatter(m, y),
            x.tril(),
            x.triu(1),
        ],
        lambda x, y, i, m, p: [
            torch.searchsorted(x[0, 0].sort()[0], y),
            torch.bucketize(y, x[0, 0].sort()[0], right=True),
            torch.isin(i, i[0, :2]),
        ],
        lambda x, y, i, m, p: [
            torch.where(m, x, 0)[m],
            x.masked_select(m),
            m.nonzero(),
            x.index_put((m,), torch.tensor(7.0)),
        ],
    ],
    "sorting and waves": [
        lambda x, y, i, m, p: [
            *x.sort(1),
            *x.sort(2, descending=True),
            x.argsort(1),
            *x.topk(3),
            *x.topk(2, 1, largest=False),
            x.msort(),
        ],
        lambda x, y, i, m, p: [
            *x.median(1),
            torch.fft.fft(x),
            torch.fft.rfft(x),
            torch.fft.irfft(torch.fft.rfft(x)),
            torch.fft.fft2(x).real,
        ],
        lambda x, y, i, m, p: [torch.fft.ifft(torch.fft.fftn(x, dim=(1, 2)), dim=1, norm="ortho").abs()],
    ],
}
