"""SMARTIES written the plain way, the oracle: loops over bands, boolean indexing, every token projected.

It takes weights of the published layout. Nothing here is shared with the package; it is read beside the
paper's formulas. Hidden tokens are left out of the sequence, sample by sample, instead of being masked.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True, kw_only=True)
class Image:
    pixels: Tensor  # (B, C, H, W)
    valid: Tensor | None  # (B, C, H, W)
    mixing: Tensor  # (C, R)


@dataclass(frozen=True, kw_only=True)
class Result:
    loss: Tensor
    terms: tuple[Tensor, Tensor]  # of a' and b'
    latents: tuple[Tensor, Tensor]
    decoded: tuple[Tensor, Tensor]


class Reference(nn.Module):
    def __init__(
        self,
        state: dict[str, Tensor],
        *,
        num_heads: int,
        decoder_num_heads: int,
        patch_size: int = 16,
        norm_pix_loss: bool = True,
        repeated: bool = False,
    ) -> None:
        super().__init__()
        for name, tensor in state.items():
            if name.endswith("pos_embed"):
                self.register_buffer(name, tensor.clone())
            else:
                self.register_parameter(name.replace(".", "__"), nn.Parameter(tensor.clone()))
        self.num_heads, self.decoder_num_heads = num_heads, decoder_num_heads
        self.patch_size, self.norm_pix_loss, self.repeated = patch_size, norm_pix_loss, repeated
        self.depths = [
            len({name.split(".")[1] for name in state if name.startswith(part)})
            for part in ("blocks.", "decoder_blocks.")
        ]

    def w(self, name: str) -> Tensor:
        return getattr(self, name.replace(".", "__"))

    def gradients(self) -> dict[str, Tensor]:
        return {
            name.replace("__", "."): torch.zeros_like(value) if value.grad is None else value.grad
            for name, value in self.named_parameters()
        }

    def patches(self, images: Tensor) -> Tensor:
        """(B, C, H, W) → (B, N, C, P, P), by slicing."""
        p = self.patch_size
        rows, cols = images.shape[2] // p, images.shape[3] // p
        cut = [
            images[:, :, p * row : p * (row + 1), p * col : p * (col + 1)] for row in range(rows) for col in range(cols)
        ]
        return torch.stack(cut, dim=1)

    def cleaned(self, image: Image) -> Tensor:
        return image.pixels if image.valid is None else image.pixels.masked_fill(~image.valid, 0)

    def hidden(self, image: Image) -> Tensor:
        if image.valid is None:
            cut = self.patches(image.pixels)
            return torch.zeros(cut.shape[:2], dtype=torch.bool, device=cut.device)
        return self.patches(image.valid).float().mean(dim=(2, 3, 4)) < 0.5

    def tokens(self, image: Image) -> Tensor:
        """12 · mean over bands of f_i(patch of that band)."""
        patches = self.patches(self.cleaned(image))
        bands = []
        for band, shares in enumerate(image.mixing):
            flat = patches[:, :, band].flatten(2)
            projected = 0
            for index in shares.nonzero().flatten().tolist():
                name = f"spectrum_projection.spectrum_embeds.{index}.proj"
                linear = functional.linear(flat, self.w(f"{name}.weight"), self.w(f"{name}.bias"))
                projected = projected + shares[index] * linear
            bands.append(projected)
        return 12 * torch.stack(bands).mean(dim=0)

    def predicted(self, tokens: Tensor, mixing: Tensor) -> Tensor:
        """(n, width) → (n, C, pixel): each band by its own r_i."""
        bands = []
        for shares in mixing:
            prediction = 0
            for index in shares.nonzero().flatten().tolist():
                name = f"decoder_preds.{index}"
                linear = functional.linear(tokens, self.w(f"{name}.weight"), self.w(f"{name}.bias"))
                prediction = prediction + shares[index] * linear
            bands.append(prediction)
        return torch.stack(bands, dim=1)

    def transformer(self, x: Tensor, prefix: str, depth: int, heads: int, norm: str) -> Tensor:
        for index in range(depth):
            name = f"{prefix}.{index}"
            x = x + self.attention(self.norm(x, f"{name}.norm1"), f"{name}.attn", heads)
            h = self.norm(x, f"{name}.norm2")
            h = functional.gelu(functional.linear(h, self.w(f"{name}.mlp.fc1.weight"), self.w(f"{name}.mlp.fc1.bias")))
            x = x + functional.linear(h, self.w(f"{name}.mlp.fc2.weight"), self.w(f"{name}.mlp.fc2.bias"))
        return self.norm(x, norm)

    def norm(self, x: Tensor, name: str) -> Tensor:
        return functional.layer_norm(x, x.shape[-1:], self.w(f"{name}.weight"), self.w(f"{name}.bias"), eps=1e-6)

    def attention(self, x: Tensor, name: str, heads: int) -> Tensor:
        batch, length, width = x.shape
        qkv = functional.linear(x, self.w(f"{name}.qkv.weight"), self.w(f"{name}.qkv.bias"))
        q, k, v = (part.view(batch, length, heads, -1).transpose(1, 2) for part in qkv.chunk(3, dim=-1))
        mixed = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, length, width)
        return functional.linear(mixed, self.w(f"{name}.proj.weight"), self.w(f"{name}.proj.bias"))

    def without_hidden(self, x: Tensor, hidden: Tensor, run) -> Tensor:
        """Run a transformer on the tokens that are not hidden (CLS never is); hidden places come out 0."""
        if not hidden.any():
            return run(x)
        out = torch.zeros_like(x)
        for sample in range(len(x)):
            seen = torch.cat([torch.ones_like(hidden[sample, :1]), ~hidden[sample]])
            out[sample, seen] = run(x[sample : sample + 1, seen])[0]
        return out

    def encoded(self, tokens: Tensor, hidden: Tensor) -> Tensor:
        cls = (self.w("cls_token") + self.pos_embed[:, :1]).expand(len(tokens), -1, -1)
        run = lambda x: self.transformer(x, "blocks", self.depths[0], self.num_heads, "norm")  # noqa: E731
        return self.without_hidden(torch.cat([cls, tokens], dim=1), hidden, run)

    def image_features(self, image: Image) -> Tensor:
        return self.encoded(self.tokens(image) + self.pos_embed[:, 1:], self.hidden(image))

    def decoded(self, latent: Tensor, ids_keep: Tensor, hidden: Tensor) -> Tensor:
        small = functional.linear(latent, self.w("decoder_embed.weight"), self.w("decoder_embed.bias"))
        full = self.w("mask_token").to(small.dtype).repeat(len(latent), hidden.shape[1], 1)
        full = full.scatter(1, ids_keep[:, :, None].expand(-1, -1, small.shape[2]), small[:, 1:])
        x = torch.cat([small[:, :1], full], dim=1) + self.decoder_pos_embed
        run = lambda y: self.transformer(  # noqa: E731
            y, "decoder_blocks", self.depths[1], self.decoder_num_heads, "decoder_norm"
        )
        return self.without_hidden(x, hidden, run)

    def errors(self, decoded: Tensor, image: Image, chosen: Tensor) -> Tensor:
        """Mean squared error of each chosen token over its valid pixels; `chosen` (B, N) is a boolean."""
        target = self.patches(self.cleaned(image)).flatten(3)[chosen]
        predicted = self.predicted(decoded[:, 1:][chosen], image.mixing)
        if len(target) == 0:
            return target.new_zeros(0)
        if image.valid is None:
            wanted = self.normalised(target.flatten(1), len(image.mixing)).view_as(target)
            return (predicted - wanted).square().mean((1, 2))
        valid = self.patches(image.valid).flatten(3)[chosen]
        rows = [
            (predicted[row][valid[row]] - self.normalised(target[row][valid[row]][None], len(image.mixing))[0])
            .square()
            .mean()
            for row in range(len(target))
        ]
        return torch.stack(rows)

    def normalised(self, values: Tensor, num_bands: int) -> Tensor:
        """(n, value) of one token each."""
        if not self.norm_pix_loss:
            return values
        copies = max(1, 12 // num_bands) if self.repeated else 1
        variance = values.repeat(1, copies).var(dim=1, keepdim=True)
        return (values - values.mean(dim=1, keepdim=True)) / (variance + 1e-6).sqrt()

    def forward(self, a: Image, b: Image, owners: tuple[Tensor, Tensor], masked: Tensor, ids_keep: Tensor) -> Result:
        """`owners`: for a' and b', where the token of a stands (B, N); elsewhere that of b."""
        tokens_a, tokens_b = self.tokens(a), self.tokens(b)
        hidden_a, hidden_b = self.hidden(a), self.hidden(b)
        terms, latents, decodings = [], [], []
        for owner in owners:
            mixed = torch.where(owner[:, :, None], tokens_a, tokens_b) + self.pos_embed[:, 1:]
            hidden = torch.where(owner, hidden_a, hidden_b)
            visible = torch.gather(mixed, 1, ids_keep[:, :, None].expand(-1, -1, mixed.shape[2]))
            latent = self.encoded(visible, torch.gather(hidden, 1, ids_keep))
            decoded = self.decoded(latent, ids_keep, hidden)
            counted = masked & ~hidden
            errors = [self.errors(decoded, a, counted & owner), self.errors(decoded, b, counted & ~owner)]
            terms.append(torch.cat(errors).mean())
            latents.append(latent)
            decodings.append(decoded)
        return Result(
            loss=(terms[0] + terms[1]) / 2,
            terms=tuple(terms),
            latents=tuple(latents),
            decoded=tuple(decodings),
        )
