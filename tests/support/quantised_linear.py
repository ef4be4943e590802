"""Linear layers whose weights are stored in few bits."""

import torch
from torch import nn

LEVELS = 15


class PackedLinear(nn.Linear):
    """Stores four bits for each weight, two weights in a byte, like bitsandbytes."""

    def __init__(self, linear):
        super().__init__(linear.in_features, linear.out_features, bias=False)
        weight = linear.weight.detach()
        self.lowest, self.step = weight.min(), (weight.max() - weight.min()) / LEVELS
        levels = ((weight - self.lowest) / self.step).round().to(torch.uint8).flatten()
        packed = levels[::2] * 16 + levels[1::2]
        self.weight = nn.Parameter(packed[:, None], requires_grad=False)

    def forward(self, x):
        levels = torch.cat([self.weight // 16, self.weight % 16], dim=1).float()
        weight = levels.view(self.out_features, self.in_features) * self.step + self.lowest
        return nn.functional.linear(x, weight)


class Float8Linear(nn.Linear):
    """Stores eight bits for each weight and one scale, like DeepSeek's checkpoints."""

    def __init__(self, linear):
        super().__init__(linear.in_features, linear.out_features, bias=False)
        weight = linear.weight.detach()
        self.scale = weight.abs().max() / 448
        narrow = (weight / self.scale).to(torch.float8_e4m3fn)
        self.weight = nn.Parameter(narrow, requires_grad=False)

    def forward(self, x):
        return nn.functional.linear(x, self.weight.float() * self.scale)


class RotatedLinear(nn.Linear):
    """Stores its weights rotated, and rotates its input, like QuaRot."""

    def __init__(self, linear):
        super().__init__(linear.in_features, linear.out_features, bias=False)
        generator = torch.Generator().manual_seed(0)
        square = torch.randn(self.in_features, self.in_features, generator=generator)
        self.rotation = torch.linalg.qr(square).Q
        self.weight = nn.Parameter(linear.weight.detach() @ self.rotation)

    def forward(self, x):
        return nn.functional.linear(x @ self.rotation, self.weight)


class RoundingLinear(nn.Linear):
    """Stores weights in full, and computes with rounded ones, like BitNet's layers in training."""

    def __init__(self, linear):
        super().__init__(linear.in_features, linear.out_features, bias=False)
        self.weight = nn.Parameter(linear.weight.detach())

    def forward(self, x):
        scale = self.weight.abs().mean()
        return nn.functional.linear(x, (self.weight / scale).round().clamp(-1, 1) * scale)


class IntegerLinear(nn.Module):
    """Stores integers and scales under other names, like GPTQ's layers."""

    def __init__(self, linear):
        super().__init__()
        weight = linear.weight.detach()
        self.register_buffer("scales", weight.abs().amax(1, keepdim=True) / 127)
        self.register_buffer("qweight", (weight / self.scales).round().to(torch.int32))

    def forward(self, x):
        return nn.functional.linear(x, self.qweight * self.scales)
