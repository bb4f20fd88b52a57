"""Files of attentions as people write them: a pasted EMA, and classes with other signatures, habits and faults."""

# EMA with the names of the copies in circulation, which are those of its authors.
MY_EMA = '''\
"""An attention of my own."""

import torch
from torch import nn


class EMA(nn.Module):
    def __init__(self, channels, c2=None, factor=32):
        super().__init__()
        self.groups = factor
        assert channels // self.groups > 0
        self.softmax, self.agp = nn.Softmax(-1), nn.AdaptiveAvgPool2d((1, 1))
        self.pool_h, self.pool_w = nn.AdaptiveAvgPool2d((None, 1)), nn.AdaptiveAvgPool2d((1, None))
        width = channels // self.groups
        self.gn = nn.GroupNorm(width, width)
        self.conv1x1 = nn.Conv2d(width, width, 1)
        self.conv3x3 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x):
        b, c, h, w = x.size()
        slabs = x.reshape(b * self.groups, -1, h, w)
        rows, columns = self.pool_h(slabs), self.pool_w(slabs).permute(0, 1, 3, 2)
        rows, columns = torch.split(self.conv1x1(torch.cat([rows, columns], dim=2)), [h, w], dim=2)
        near = self.gn(slabs * rows.sigmoid() * columns.permute(0, 1, 3, 2).sigmoid())
        far = self.conv3x3(slabs)
        gate = self.weights(near) @ far.flatten(2) + self.weights(far) @ near.flatten(2)
        return (slabs * gate.reshape(b * self.groups, 1, h, w).sigmoid()).reshape(b, c, h, w)

    def weights(self, slabs):
        return self.softmax(self.agp(slabs).flatten(1))[:, None]
'''

HEAD = "import torch\nfrom torch import nn\nfrom torch.nn import functional as F\n\n\n"

# A class, what it is given, and the sentence with which it is refused; "" where it works.
CLASSES = {
    "Plain(c1)": (
        """
class Plain(nn.Module):
    def __init__(self, c1):
        super().__init__()
        self.gate = nn.Conv2d(c1, c1, 1)

    def forward(self, x):
        return x * self.gate(x.mean((2, 3), keepdim=True)).sigmoid()
""",
        "",
        "",
    ),
    "Heads(dim, num_heads=8)": (
        """
class Heads(nn.Module):
    def __init__(self, dim, num_heads=8, qkv_bias=False):
        super().__init__()
        self.num_heads = num_heads
        self.qkv, self.proj = nn.Linear(dim, dim * 3, bias=qkv_bias), nn.Linear(dim, dim)

    def forward(self, x):
        B, C, H, W = x.shape
        q, k, v = self.qkv(x.flatten(2).transpose(1, 2)).reshape(B, H * W, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(B, H * W, C)
        return self.proj(out).transpose(1, 2).reshape(B, C, H, W)
""",
        "num_heads=4",
        "",
    ),
    "Reduced(in_planes, ratio=16, k=7)": (
        """
class Reduced(nn.Module):
    def __init__(self, in_planes, ratio=16, k=7):
        super().__init__()
        self.down, self.up = nn.Conv2d(in_planes, in_planes // ratio, 1), nn.Conv2d(in_planes // ratio, in_planes, 1)
        self.map = nn.Conv2d(2, 1, k, padding=k // 2)

    def forward(self, x):
        x = x * self.up(self.down(F.adaptive_avg_pool2d(x, 1)).relu()).sigmoid()
        return x * self.map(torch.cat([x.mean(1, True), x.max(1, True)[0]], 1)).sigmoid()
""",
        "ratio=8, k=5",
        "",
    ),
    "Grouped(channel, reduction=16, G=8)": (
        """
class Grouped(nn.Module):
    def __init__(self, channel=512, reduction=16, G=8):
        super().__init__()
        self.G = G
        self.weight = nn.Parameter(torch.zeros(1, channel // G, 1, 1))

    def forward(self, x):
        b, c, h, w = x.shape
        y = x.view(b * self.G, -1, h, w)
        return (y * (y.mean((2, 3), keepdim=True) * self.weight).sigmoid()).view(b, c, h, w)
""",
        "",
        "",
    ),
    "Nothing()": (
        """
class Nothing(nn.Module):
    def __init__(self, e_lambda=1e-4):
        super().__init__()
        self.e_lambda = e_lambda

    def forward(self, x):
        far = (x - x.mean((2, 3), keepdim=True)).pow(2)
        return x * (far / (4 * (far.mean((2, 3), keepdim=True) + self.e_lambda)) + 0.5).sigmoid()
""",
        "e_lambda=0.01",
        "",
    ),
    "Two(c1, c2)": (
        """
class Two(nn.Module):
    def __init__(self, c1, c2, *, act=True):
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(c1, c2, 3, padding=1, groups=c1), nn.BatchNorm2d(c2), nn.SiLU())

    def forward(self, x):
        return x * self.conv(x).sigmoid()
""",
        "",
        "",
    ),
    "Lazy() of layers that learn their width, and *maps": (
        """
class Lazy(nn.Module):
    def __init__(self, kernel_size=3):
        super().__init__()
        self.gate = nn.LazyConv2d(1, kernel_size, padding=kernel_size // 2)

    def forward(self, *maps):
        return maps[0] * self.gate(maps[0]).sigmoid()
""",
        "kernel_size=5",
        "",
    ),
    "Both(dim) returns a tuple": (
        """
class Both(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.gate = nn.Conv2d(dim, 1, 1)

    def forward(self, x):
        gate = self.gate(x).sigmoid()
        return x * gate, gate
""",
        "",
        r"returns a tuple of 2 instead of one map; return the map alone",
    ),
    "Tokens(dim) wants H and W": (
        """
class Tokens(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.mix = nn.Linear(dim, dim)

    def forward(self, x, H, W):
        return self.mix(x)
""",
        "",
        r"its forward takes x, H, W, and is given the map alone; .* B, C, H, W = x.shape",
    ),
    "Even(dim) needs even sizes": (
        """
class Even(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.mix = nn.Conv2d(4 * dim, 4 * dim, 1, groups=dim)

    def forward(self, x):
        return x * F.pixel_shuffle(self.mix(F.pixel_unshuffle(x, 2)), 2).sigmoid()
""",
        "",
        r"runs on a map of 16 x 16 and fails on one of 15 x 20.*; in its forward, pad the map",
    ),
    "Fixed(dim, h, w)": (
        """
class Fixed(nn.Module):
    def __init__(self, dim, h, w):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1, dim, h, w))

    def forward(self, x):
        return x * (x + self.bias).sigmoid()
""",
        "",
        r"is built for one size of the map, h and w, .*; read the size in its forward",
    ),
    "Unknown(k)": (
        """
class Unknown(nn.Module):
    def __init__(self, breadth):
        super().__init__()
        self.gate = nn.Conv2d(breadth, breadth, 1)

    def forward(self, x):
        return x * self.gate(x).sigmoid()
""",
        "",
        r"takes breadth, none of which foveal knows for a width; call the width channels",
    ),
    "Halved(inp, oup)": (
        """
class Halved(nn.Module):
    def __init__(self, inp, oup, stride=2):
        super().__init__()
        self.conv = nn.Conv2d(inp, oup, 3, stride, 1)

    def forward(self, x):
        return self.conv(x)
""",
        "",
        r"makes \(1, 64, 8, 8\) of \(1, 64, 16, 16\), and an attention keeps the shape",
    ),
    "Inside(channels) changes its input": (
        """
class Inside(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.gate = nn.Conv2d(channels, channels, 1)

    def forward(self, x):
        gate = self.gate(x).sigmoid()
        return x.mul_(gate)
""",
        "",
        r"changes the map that it reads, .*; write x = x \* gate",
    ),
    "Asserts(channels)": (
        """
class Asserts(nn.Module):
    def __init__(self, channels, groups=48):
        super().__init__()
        assert channels % groups == 0, "groups must divide the channels"

    def forward(self, x):
        return x
""",
        "",
        r"cannot be built: AssertionError: groups must divide the channels; its arguments are groups",
    ),
}
