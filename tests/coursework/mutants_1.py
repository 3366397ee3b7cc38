"""Broken and unusual solutions of "Build batch norm", as data.

Each mutant must lose points in its task; each equivalent is correct and must lose nothing.
``swap`` replaces a text that occurs once in the cell of the source notebook; ``source`` is the
whole new cell.
"""


def swaps(task: str, cell: str, *rows: tuple[str, str, str]) -> list[dict]:
    """Mutants of one cell: rows of name, old text, new text."""
    return [
        {"name": f"{task}: {name}", "task": task, "cell": cell, "swap": (old, new)}
        for name, old, new in rows
    ]


def wholes(task: str, cell: str, template: str, *rows: tuple[str, str]) -> list[dict]:
    """Mutants of one cell: rows of name and body; the bodies fill the gap of the template."""
    return [
        {
            "name": f"{task}: {name}",
            "task": task,
            "cell": cell,
            "source": template.replace("GAP", b),
        }
        for name, b in rows
    ]


def mends(letter: str, name: str, body: str, bases: str = "", before: str = "") -> dict:
    """Another mended exhibit; it loses its points if it is wrong."""
    head = f"{before}class Mended{letter}({bases or 'museum.Exhibit' + letter}):\n    "
    return {
        "name": f"mending {letter}: {name}",
        "task": "mending",
        "cell": f"mend-{letter.lower()}",
        "source": head + body,
    }


def right(name: str, cell: str, source: str) -> dict:
    """A correct solution by another way."""
    return {"name": f"right: {name}", "cell": cell, "source": source}


# --- section 1: forward ---------------------------------------------------------------------------

MEAN = "mean = x.mean(axes, keepdim=True)  # (N, C, H, W) -> (1, C, 1, 1)"
VAR = "var = (x - mean).square().mean(axes, keepdim=True)"
INNER = "(var + eps).sqrt()"
HAT = "x_hat = (x - mean) / " + INNER
END = "return gamma.view_as(mean) * x_hat + beta.view_as(mean)"
PER_CHANNEL = """def batch_norm(x, gamma, beta, eps=1e-5):
    shape = [1, -1] + [1] * (x.dim() - 2)
    GAP
    x_hat = (x - mean) / (var + eps).sqrt()
    return gamma.view(shape) * x_hat + beta.view(shape)
"""
BY_AXES = (
    "axes = {}; mean = x.mean(axes, keepdim=True); var = x.var(axes, correction=0, keepdim=True)"
)
REMEMBERS = """def batch_norm(x, gamma, beta, eps=1e-5, known={}):
    shape, axes = [1, -1] + [1] * (x.dim() - 2), [a for a in range(x.dim()) if a != 1]
    var, mean = known.setdefault(x.shape, torch.var_mean(x.detach(), axes, correction=0))
    x_hat = (x - mean.view(shape)) / (var.view(shape) + eps).sqrt()
    return gamma.view(shape) * x_hat + beta.view(shape)
"""
BOTH_SELFCHECKED_CHANNELS = """def batch_norm(x, gamma, beta, eps=1e-5):
    y = torch.zeros_like(x)
    for c in (0, 1):
        v = x[:, c]
        y[:, c] = gamma[c] * (v - v.mean()) / (v.var(correction=0) + eps).sqrt() + beta[c]
    return y
"""
NUMPY = """def batch_norm(x, gamma, beta, eps=1e-5):
    z, axes = x.detach().numpy(), tuple(a for a in range(x.dim()) if a != 1)
    y = (z - z.mean(axes, keepdims=True)) / (z.var(axes, keepdims=True) + eps) ** 0.5
    shape = [1, -1] + [1] * (x.dim() - 2)
    return gamma.view(shape) * torch.from_numpy(y) + beta.view(shape)
"""
READY_MADE = "def batch_norm(x, gamma, beta, eps=1e-5):\n    return GAP\n"

FORWARD = [
    *swaps(
        "forward",
        "forward-code",
        ("C, cancellation", VAR, "var = (x * x).mean(axes, keepdim=True) - mean * mean"),
        ("C, clamped", VAR, "var = (x.square().mean(axes, keepdim=True) - mean**2).clamp(min=0)"),
        ("D, statistics detached", HAT, "mean, var = mean.detach(), var.detach()\n    " + HAT),
        ("variance detached", HAT, "var = var.detach()\n    " + HAT),
        ("mean detached", MEAN, "mean = x.mean(axes, keepdim=True).detach()"),
        ("F, eps outside the root", INNER, "(var.sqrt() + eps)"),
        ("eps added to the variance squared", INNER, "(var + eps**2).sqrt()"),
        ("eps as a floor", INNER, "var.clamp(min=eps).sqrt()"),
        ("eps fixed", INNER, "(var + 1e-5).sqrt()"),
        ("no eps", INNER, "var.sqrt()"),
        ("H, unbiased variance divides", VAR, "var = x.var(axes, keepdim=True)"),
        ("m + 1 divides", VAR, "n = x.numel() / x.shape[1]\n    " + VAR + " * n / (n + 1)"),
        ("in place", HAT, "x -= mean.detach()\n    x_hat = x / (var + eps).sqrt()"),
        ("gamma changed in place", HAT, HAT + "\n    gamma.data.abs_()"),
        ("float32 on the way", "x_hat = (x - mean)", "x_hat = (x - mean).float().to(x.dtype)"),
        ("always float64", END, END + ".double()"),
        ("gamma without gradient", "gamma.view_as(mean) *", "gamma.detach().view_as(mean) *"),
        ("contiguous only", MEAN, "x = x.view(-1).view(x.shape)\n    " + MEAN),
    ),
    *wholes(
        "forward",
        "forward-code",
        PER_CHANNEL,
        ("B, pixels apart", BY_AXES.format("[0]")),
        ("examples apart", BY_AXES.format("[0] if x.dim() == 2 else list(range(2, x.dim()))")),
        ("all channels in one", "mean = x.mean(); var = x.var(correction=0)"),
        ("passes on squares", "mean = x.mean(0)[..., None]; var = (x - mean).square().mean(0)"),
        ("sequences forgotten", BY_AXES.format("[0, 2, 3] if x.dim() == 4 else [0]")),
    ),
    *wholes("forward", "forward-code", REMEMBERS, ("statistics kept between calls", "")),
    *wholes("forward", "forward-code", BOTH_SELFCHECKED_CHANNELS, ("two channels only", "")),
    *wholes("forward", "forward-code", NUMPY, ("no gradient", "")),
    *wholes(
        "forward",
        "forward-code",
        READY_MADE,
        ("nothing done", "x"),
        (
            "torch's function",
            "torch.nn.functional.batch_norm(x, None, None, gamma, beta, True, 0, eps)",
        ),
        (
            "torch's operator",
            "torch.ops.aten.native_batch_norm(x, gamma, beta, None, None, True, 0.0, eps)[0]",
        ),
    ),
    *wholes(
        "forward",
        "forward-code",
        "from torch import batch_norm as ready\n\n\n" + READY_MADE,
        (
            "torch's function by another name",
            "ready(x, gamma, beta, None, None, True, 0.0, eps, False)",
        ),
    ),
]

# --- section 2: backward --------------------------------------------------------------------------

ROOT = "root = ((x - mean).square().mean(axes, keepdim=True) + eps).sqrt()"
DX = "dx = g - g.mean(axes, keepdim=True) - x_hat * (g * x_hat).mean(axes, keepdim=True)"
PULLED = "(g * x_hat).mean(axes, keepdim=True)"
GAMMA = "g = gamma.view_as(mean) * dy"
AUTOGRAD = """def batch_norm_backward(dy, x, gamma, eps=1e-5):
    with torch.inference_mode(False), torch.enable_grad():
        x, gamma, dy = x.clone().requires_grad_(), gamma.clone().requires_grad_(), dy.clone()
        beta = torch.zeros_like(gamma).requires_grad_()
        return GAP
"""
NUDGED = """def batch_norm_backward(dy, x, gamma, eps=1e-5):
    def loss(x, gamma, beta):
        return (dy * batch_norm(x, gamma, beta, eps)).sum()

    def slope(k, h=1e-6):
        found, ins = torch.zeros_like(ins_0[k]), list(ins_0)
        for i in range(found.numel()):
            step = torch.zeros_like(found)
            step.view(-1)[i] = h
            up, down = (loss(*ins[:k], ins[k] + s * step, *ins[k + 1 :]) for s in (1, -1))
            found.view(-1)[i] = (up - down) / (2 * h)
        return found

    ins_0 = (x, gamma, torch.zeros_like(gamma))
    return slope(0), slope(1), slope(2)
"""

BACKWARD = [
    *swaps(
        "backward",
        "backward-code",
        ("D, statistics as constants", DX, "dx = g"),
        ("mean as a constant", " - g.mean(axes, keepdim=True)", ""),
        ("variance as a constant", " - x_hat * " + PULLED, ""),
        ("B, pixels apart", "dx = g - g.mean(axes, keepdim=True)", "dx = g - g.mean(0, keepdim=True)"),
        ("C, cancellation", "(x - mean).square().mean(axes, keepdim=True)", "((x * x).mean(axes, keepdim=True) - mean**2)"),
        ("E, counts examples", PULLED, "(g * x_hat).sum(axes, keepdim=True) / len(x)"),
        ("F, eps outside the root", "+ eps).sqrt()", ").sqrt() + eps"),
        ("eps fixed", "+ eps)", "+ 1e-5)"),
        ("H, unbiased variance", "(x - mean).square().mean(axes, keepdim=True)", "x.var(axes, keepdim=True)"),
        ("m - 1 in one term", PULLED, "(g * x_hat).sum(axes, keepdim=True) / (x[:, 0].numel() - 1)"),
        ("gamma missing", GAMMA, "g = dy"),
        ("gamma in its own gradient", "(dy * x_hat).sum", "(g * x_hat).sum"),
        ("dgamma of the raw input", "(dy * x_hat).sum", "(dy * x).sum"),
        ("dbeta over examples only", "dy.sum(axes)", "dy.sum(0)"),
        ("dgamma and dbeta swapped", "(dy * x_hat).sum(axes), dy.sum(axes)", "dy.sum(axes), (dy * x_hat).sum(axes)"),
        ("dy changed in place", GAMMA, "g = dy.mul_(gamma.view_as(mean))"),
        ("float32", "return dx / root", "return (dx / root).float()"),
    ),
    *wholes("backward", "backward-code", NUDGED, ("finite differences", "")),
    *wholes(
        "backward",
        "backward-code",
        AUTOGRAD,
        ("autograd", "torch.autograd.grad(batch_norm(x, gamma, beta, eps), (x, gamma, beta), dy)"),
    ),
]  # fmt: skip

# --- section 3: running statistics ----------------------------------------------------------------

ROWS = "rows = x.detach().transpose(0, 1).flatten(1)  # (N, C, H, W) -> (C, NHW)"
STORED = "rows.var(1, correction=1)"
MOVED = "mean = (1 - momentum) * running_mean + momentum * rows.mean(1)"

RUNNING = [
    *swaps(
        "running-statistics",
        "running-code",
        ("A, momentum reversed", MOVED, "momentum = 1 - momentum\n    " + MOVED),
        ("B, one pixel of each image", ROWS, "rows = x.detach().flatten(2)[..., 0].T if x.dim() > 2 else x.detach().T"),
        ("C, cancellation", STORED, "(rows.square().mean(1) - rows.mean(1) ** 2) * rows.shape[1] / (rows.shape[1] - 1)"),
        ("E, counts examples", STORED, "rows.var(1, correction=0) * len(x) / (len(x) - 1)"),
        ("correction of the first batch", STORED, "rows.var(1, correction=0) * 5 / 4"),
        ("H the other way, biased variance stored", STORED, "rows.var(1, correction=0)"),
        ("I, graph kept", "x.detach()", "x"),
        ("variance around the running mean", STORED, "(rows - mean[:, None]).square().sum(1) / (rows.shape[1] - 1)"),
        ("in place", "return mean, var", "return running_mean.copy_(mean), running_var.copy_(var)"),
        ("float32", "x.detach()", "x.detach().float()"),
        ("nothing done", "return mean, var", "return running_mean, running_var"),
    ),
]  # fmt: skip

# --- section 4: training and evaluation -----------------------------------------------------------

UPDATE = "            self.running_mean, self.running_var = running\n"
TRAINS = "            return batch_norm(x, self.weight, self.bias, self.eps)\n"
ONE = "            if x.numel() == x.shape[1]:\n"
COUNT = "            self.num_batches_tracked += 1\n"
REGISTER = 'self.register_buffer("running_mean", torch.zeros(num_features))'
ASKS_MODE = "        if self.training:\n"
IN_EVAL = """        if not self.training and len(x) > 1:
            self.running_mean = running_update(self.running_mean, self.running_var, x, 0.1)[0]
"""
UNBIASED = """            rows = x.transpose(0, 1).flatten(1)
            shape = [1, -1] + [1] * (x.dim() - 2)
            y = (x - rows.mean(1).view(shape)) / (rows.var(1).view(shape) + self.eps).sqrt()
            return self.weight.view(shape) * y + self.bias.view(shape)
"""
KEPT_GRAPH = """            new = x.transpose(0, 1).flatten(1).mean(1)
            self.running_mean, self.running_var = self.running_mean.lerp(new, step), running[1]
"""
SHARED = f"""BatchNorm.mean = getattr(BatchNorm, "mean", torch.zeros(num_features))
        {REGISTER.replace("torch.zeros(num_features)", "BatchNorm.mean")}"""
LAYER = """class BatchNorm(torch.nn.Module):
    def __init__(self, num_features, eps=1e-5, momentum=0.1, start={}):
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.weight = torch.nn.Parameter(torch.ones(num_features))
        self.bias = torch.nn.Parameter(torch.zeros(num_features))
        GAP

    def forward(self, x):
        shape, axes = [1, -1] + [1] * (x.dim() - 2), [a for a in range(x.dim()) if a != 1]
        mean, var = self.running_mean, self.running_var
        if self.training:
            m = x.numel() // x.shape[1]
            if m == 1:
                raise ValueError("one value per channel")
            var, mean = torch.var_mean(x, axes, correction=0)
            with torch.no_grad():
                self.num_batches_tracked += 1
                a = 1 / self.num_batches_tracked if self.momentum is None else self.momentum
                self.running_mean += a * (mean - self.running_mean)
                self.running_var += a * (var * m / (m - 1) - self.running_var)
        x_hat = (x - mean.view(shape)) * torch.rsqrt(var.view(shape) + self.eps)
        return torch.addcmul(self.bias.view(shape), self.weight.view(shape), x_hat)
"""
BUFFERS = """self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))
        self.register_buffer("num_batches_tracked", torch.tensor(0))"""
ONE_FOR_ALL = """for k, v in {"running_mean": torch.zeros, "running_var": torch.ones}.items():
            self.register_buffer(k, start.setdefault((k, num_features), v(num_features)))
        self.register_buffer("num_batches_tracked", torch.tensor(0))"""

TRAIN_EVAL = [
    *swaps(
        "train-eval",
        "layer-code",
        ("A, momentum reversed", UPDATE, UPDATE.replace("running\n", "running_update(self.running_mean, self.running_var, x, 1 - step)\n")),
        ("momentum ignored", "else self.momentum", "else 0.1"),
        ("momentum None as 0.1", "1 / self.num_batches_tracked.item()", "0.1"),
        ("momentum None one behind", "1 / self.num_batches_tracked.item()", "1 / (self.num_batches_tracked.item() + 1)"),
        ("counts by itself", "1 / self.num_batches_tracked.item()", "(setattr(self, 'k', getattr(self, 'k', 0) + 1), 1 / self.k)[1]"),
        ("G, evaluation updates", ASKS_MODE, IN_EVAL + ASKS_MODE),
        ("evaluation counts batches", ASKS_MODE, "        self.num_batches_tracked += not self.training\n" + ASKS_MODE),
        ("evaluation uses the batch", ASKS_MODE, "        if self.training or len(x) > 1:\n"),
        ("training uses the running statistics", TRAINS, ""),
        ("H, unbiased variance divides", TRAINS, UNBIASED),
        ("I, graph kept in a buffer", UPDATE, KEPT_GRAPH),
        ("gradient mode decides", ASKS_MODE, "        if torch.is_grad_enabled() and x.requires_grad:\n"),
        ("mode asked once", ASKS_MODE, "        self.mode = getattr(self, 'mode', self.training)\n        if self.mode:\n"),
        ("F, eps outside the root in evaluation", "(self.running_var + self.eps).sqrt()", "(self.running_var.sqrt() + self.eps)"),
        ("B, no pixels in evaluation", "[1, -1] + [1] * (x.dim() - 2)", "[1, -1]"),
        ("no sequences in evaluation", "[1, -1] + [1] * (x.dim() - 2)", "[1, -1, 1, 1][: 4 if x.dim() == 4 else 2]"),
        ("buffer as a plain attribute", REGISTER, "self.running_mean = torch.zeros(num_features)"),
        ("buffer not saved", REGISTER, REGISTER[:-1] + ", persistent=False)"),
        ("bias is no parameter", "self.bias = torch.nn.Parameter(torch.zeros(num_features))", "self.register_buffer('bias', torch.zeros(num_features))"),
        ("one value is not refused", ONE, "            if x.numel() == 0:\n"),
        ("one value is refused by an assert", ONE, "            assert x.numel() > x.shape[1]\n" + ONE),
        ("one value is refused too late", ONE, "            self.running_mean = self.running_mean * 0.9\n" + ONE),
        ("one value is refused in evaluation", ASKS_MODE, "        if x.numel() == x.shape[1]:\n            raise ValueError\n" + ASKS_MODE),
        ("one image is refused", ONE, "            if len(x) == 1:\n"),
    ),
    *wholes("train-eval", "layer-code", LAYER, ("state shared by a mutable default", ONE_FOR_ALL)),
]  # fmt: skip

# --- section 5: folding ---------------------------------------------------------------------------

WEIGHT = "folded.weight.copy_(scale[:, None] * linear.weight)"
BIAS = "folded.bias.copy_(scale * (start - norm.running_mean) + norm.bias)"
NO_GRAD = "    with torch.no_grad"
INSTEAD = "def fold(linear, norm):\n    GAP\n"

FOLDING = [
    *swaps(
        "folding",
        "folding-code",
        ("no eps", "(norm.running_var + norm.eps)", "norm.running_var"),
        ("eps fixed", "norm.eps", "1e-5"),
        ("F, eps outside the root", "(norm.running_var + norm.eps).sqrt()", "(norm.running_var.sqrt() + norm.eps)"),
        ("old bias forgotten", "start = 0 if linear.bias is None else linear.bias", "start = 0"),
        ("needs a bias", "start = 0 if linear.bias is None else linear.bias", "start = linear.bias"),
        ("old bias not scaled", "scale * (start - norm.running_mean)", "start - scale * norm.running_mean"),
        ("beta scaled", BIAS, "folded.bias.copy_(scale * (start - norm.running_mean + norm.bias))"),
        ("norm before linear", WEIGHT, "folded.weight.copy_(torch.cat([scale, scale[:1]]) * linear.weight)"),
        ("G, the norm is called", NO_GRAD, "    norm(linear(torch.ones(4, in_features, dtype=linear.weight.dtype)))\n" + NO_GRAD),
        ("the norm is switched to evaluation", NO_GRAD, "    norm.eval()\n" + NO_GRAD),
        ("the given layer is overwritten too", "    return folded", "    linear.weight.data = folded.weight.data.clone()\n    return folded"),
        ("the norm's memory is shared", "    return folded", "    norm.bias.data = folded.bias.data\n    return folded"),
        ("float32", ", dtype=linear.weight.dtype)", ")"),
    ),
    *wholes(
        "folding",
        "folding-code",
        INSTEAD,
        ("nothing done", "return linear"),
        ("two layers in one", "return torch.nn.Sequential(linear, norm.eval())"),
    ),
]  # fmt: skip

# --- sections 6 and 7: the museum -----------------------------------------------------------------

CONFUSED = {  # what each cause is easily taken for
    "A": ("momentum-reversed", "momentum-ignored"),
    "B": ("pixels-apart", "examples-apart"),
    "C": ("cancellation", "eps-missing"),
    "D": ("statistics-detached", "variance-detached"),
    "E": ("bessel-counts-examples", "bessel-missing"),
    "F": ("eps-outside-root", "eps-missing"),
    "G": ("eval-updates", "eval-uses-batch"),
    "H": ("unbiased-divides", "bessel-missing"),
    "I": ("graph-in-buffers", "statistics-detached"),
}
DIAGNOSES = [
    dict(row, name=f"{row['name']} for {letter}")
    for letter, causes in CONFUSED.items()
    for row in swaps("diagnosis", "diagnosis-code", (causes[1], *causes))
]
AXES = "axes = museum.reduced_axes(x)\n        "
STATISTICS = "def statistics(self, x):\n        " + AXES
FORWARD_OF_MY_OWN = """def forward(self, x):
        if self.training:
            new = running_update(self.running_mean, self.running_var, x, self.momentum)
            self.running_mean, self.running_var = new
            return batch_norm(x, self.weight, self.bias, self.eps)
        shape = [1, -1] + [1] * (x.dim() - 2)
        scale = (self.weight / (self.running_var + self.eps).sqrt()).view(shape)
        return scale * (x - self.running_mean.view(shape)) + self.bias.view(shape)
"""
SOUND = (
    STATISTICS
    + """mean = x.mean(axes, keepdim=True)
        return mean, (x - mean).square().mean(axes, keepdim=True)

    def normalize(self, x, mean, var):
        return (x - mean) / (var + self.eps).sqrt()

    @torch.no_grad()
    def update(self, x, mean, var):
        if self.training:
            m, a = x.numel() // x.shape[1], self.momentum
            self.running_mean = (1 - a) * self.running_mean + a * mean.flatten()
            self.running_var = (1 - a) * self.running_var + a * var.flatten() * m / (m - 1)

"""
)

MENDING = [
    *[mends(letter, "left as it is", "pass") for letter in CONFUSED],
    mends("A", "step of 0.1", "momentum = property(lambda self: 0.9, lambda self, value: None)"),
    mends("A", "one layer for all", "pass", bases="BatchNorm"),
    mends("A", "forward replaced", FORWARD_OF_MY_OWN),
    *[mends(letter, "one class for all", SOUND) for letter in "BDFI"],
    mends("A", "one class for all, inherited", "pass", bases="Sound, museum.ExhibitA", before="class Sound:\n    " + SOUND),
    mends("G", "a sound method replaced as well", SOUND.split("    @torch")[0] + "def update(self, x, mean, var):\n        if self.training:\n            super().update(x, mean, var)"),
    mends("B", "examples apart", STATISTICS.replace("reduced_axes(x)", "reduced_axes(x)[-2:]") + "return x.mean(axes, keepdim=True), x.var(axes, correction=0, keepdim=True)"),
    mends("C", "clamped", "def statistics(self, x):\n        mean, var = super().statistics(x)\n        return mean, var.clamp(min=0)"),
    mends("C", "borrowed", "statistics = museum.ExhibitA.statistics"),
    mends("D", "graph in the buffers", STATISTICS + "return x.mean(axes, keepdim=True), x.var(axes, correction=0, keepdim=True)"),
    mends("D", "variance still detached", STATISTICS + "mean = x.mean(axes, keepdim=True)\n        return mean, (x - mean).square().mean(axes, keepdim=True).detach()\n\n    def update(self, x, mean, var):\n        super().update(x, mean.detach(), var)"),
    mends("E", "biased", "def update(self, x, mean, var):\n        n = len(x)\n        super().update(x, mean, var * (n - 1) / n)"),
    mends("F", "eps squared", "def normalize(self, x, mean, var):\n        return (x - mean) / (var + self.eps**2).sqrt()"),
    mends("G", "never updates", "def update(self, x, mean, var):\n        pass"),
    mends("H", "stored variance spoilt", STATISTICS + "return x.mean(axes, keepdim=True), x.var(axes, correction=0, keepdim=True)"),
    mends("H", "evaluation scaled too", "def normalize(self, x, mean, var):\n        m = x.numel() // x.shape[1]\n        return super().normalize(x, mean, var * (m - 1) / m)"),
    mends("I", "only the mean is detached", "def update(self, x, mean, var):\n        super().update(x, mean.detach(), var)"),
    mends("I", "statistics detached", "def statistics(self, x):\n        return tuple(part.detach() for part in super().statistics(x))"),
]  # fmt: skip

MUTANTS = FORWARD + BACKWARD + RUNNING + TRAIN_EVAL + FOLDING + DIAGNOSES + MENDING

# --- correct by other ways ------------------------------------------------------------------------

EQUIVALENTS = [
    right(
        "einsum",
        "forward-code",
        """def batch_norm(x, gamma, beta, eps=1e-5):
    flat = x.reshape(*x.shape[:2], -1)
    m = flat.shape[0] * flat.shape[2]
    centered = flat - (torch.einsum("ncl->c", flat) / m)[:, None]
    a = gamma / torch.sqrt(torch.einsum("ncl,ncl->c", centered, centered) / m + eps)
    return (torch.einsum("c,ncl->ncl", a, centered) + beta[:, None]).reshape(x.shape)
""",
    ),
    right(
        "Welford",
        "forward-code",
        """def batch_norm(x, gamma, beta, eps=1e-5):
    rows = x.transpose(0, 1).flatten(1)
    mean = m2 = torch.zeros_like(rows[:, 0])
    for k in range(rows.shape[1]):
        delta = rows[:, k] - mean
        mean = mean + delta / (k + 1)
        m2 = m2 + delta * (rows[:, k] - mean)
    shape = [1, -1] + [1] * (x.dim() - 2)
    std = (m2 / rows.shape[1] + eps) ** 0.5
    return (x - mean.view(shape)) / std.view(shape) * gamma.view(shape) + beta.view(shape)
""",
    ),
    right(
        "mean of squares in float64",
        "forward-code",
        """def batch_norm(x, gamma, beta, eps=1e-5):
    z, axes, shape = x.double(), (0, *range(2, x.dim())), [1, -1] + [1] * (x.dim() - 2)
    mean, squares = z.mean(axes), (z * z).mean(axes)
    a = gamma.double() * torch.rsqrt((squares - mean**2).clamp(min=0) + eps)
    return (a.view(shape) * z + (beta - a * mean).view(shape)).to(x.dtype)
""",
    ),
    right(
        "a table, torch.var_mean",
        "forward-code",
        """def batch_norm(x, gamma, beta, eps=1e-5):
    last = x.movedim(1, -1)
    var, mean = torch.var_mean(last.reshape(-1, x.shape[1]), 0, correction=0)
    return ((last - mean) * (var + eps).rsqrt() * gamma + beta).movedim(-1, 1)
""",
    ),
    right(
        "channel by channel, differences of pairs",
        "forward-code",
        """def batch_norm(x, gamma, beta, eps=1e-5):
    out = []
    for v, g, b in zip(x.unbind(1), gamma, beta, strict=True):
        d = v.reshape(-1, 1) - v.reshape(1, -1)
        out.append(g * (d.mean(1) / (d.square().mean() / 2 + eps).sqrt()).reshape(v.shape) + b)
    return torch.stack(out, dim=1)
""",
    ),
    right(
        "an autograd.Function",
        "forward-code",
        """class Normalize(torch.autograd.Function):
    @staticmethod
    def forward(context, x, eps):
        axes = [a for a in range(x.dim()) if a != 1]
        root = (x.var(axes, correction=0, keepdim=True) + eps).sqrt()
        x_hat = (x - x.mean(axes, keepdim=True)) / root
        context.save_for_backward(x_hat, root)
        return x_hat

    @staticmethod
    def backward(context, g):
        x_hat, root = context.saved_tensors
        axes = [a for a in range(g.dim()) if a != 1]
        pulled = x_hat * (g * x_hat).mean(axes, keepdim=True)
        return (g - g.mean(axes, keepdim=True) - pulled) / root, None


def batch_norm(x, gamma, beta, eps=1e-5):
    shape = [1, -1] + [1] * (x.dim() - 2)
    return gamma.view(shape) * Normalize.apply(x, eps) + beta.view(shape)
""",
    ),
    right(
        "sums, one line per gradient",
        "backward-code",
        """def batch_norm_backward(dy, x, gamma, eps=1e-5):
    d, s, m = (0, *range(2, x.dim())), [1, -1] + [1] * (x.dim() - 2), x.numel() / x.shape[1]
    inv = torch.rsqrt(x.var(d, correction=0) + eps)
    xh = (x - x.mean(d).view(s)) * inv.view(s)
    db, dg = dy.sum(d), torch.sum(dy * xh, d)
    return (gamma * inv / m).view(s) * (m * dy - db.view(s) - xh * dg.view(s)), dg, db
""",
    ),
    right(
        "node by node through the graph",
        "backward-code",
        """def batch_norm_backward(dy, x, gamma, eps=1e-5):
    X, D = (t.movedim(1, -1).reshape(-1, x.shape[1]) for t in (x, dy))
    c, n = X - X.mean(0), len(X)
    root = ((c**2).sum(0) / n + eps) ** 0.5
    d_hat = D * gamma
    d_var = -(d_hat * c).sum(0) / root**2 / (2 * root)
    d_c = d_hat / root + 2 * c * d_var / n
    dX = d_c - d_c.sum(0) / n
    dx = dX.reshape(x.movedim(1, -1).shape).movedim(-1, 1)
    return dx, (D * c / root).sum(0), D.sum(0)
""",
    ),
    right(
        "the Jacobian of each channel, in float64",
        "backward-code",
        """def batch_norm_backward(dy, x, gamma, eps=1e-5):
    dx, dg, db = torch.empty_like(x), torch.empty_like(gamma), torch.empty_like(gamma)
    for c in range(x.shape[1]):
        v, d = x[:, c].double().reshape(-1), dy[:, c].double().reshape(-1)
        r = (v.var(correction=0) + eps).sqrt()
        h = (v - v.mean()) / r
        J = (torch.eye(len(v), dtype=v.dtype) - 1 / len(v) - torch.outer(h, h) / len(v)) / r
        dx[:, c] = (gamma[c] * (J @ d)).reshape(x[:, c].shape)
        dg[c], db[c] = (d * h).sum(), d.sum()
    return [dx, dg, db]
""",
    ),
    right(
        "no_grad and lerp",
        "running-code",
        """@torch.no_grad()
def running_update(running_mean, running_var, x, momentum=0.1):
    var, mean = torch.var_mean(x, [0, *range(2, x.dim())])
    return torch.lerp(running_mean, mean, momentum), torch.lerp(running_var, var, momentum)
""",
    ),
    right(
        "a step towards the new value, NumPy inside",
        "running-code",
        """def running_update(running_mean, running_var, x, momentum=0.1):
    rows = x.detach().numpy().swapaxes(0, 1).reshape(x.shape[1], -1).astype("float64")
    new = (torch.from_numpy(part).to(x.dtype) for part in (rows.mean(1), rows.var(1, ddof=1)))
    return tuple(r + momentum * (v - r) for r, v in zip((running_mean, running_var), new))
""",
    ),
    right("the whole layer by itself, in place", "layer-code", LAYER.replace("GAP", BUFFERS)),
    right(
        "an exact plain average, refused first",
        "layer-code",
        LAYER.replace("GAP", BUFFERS)
        .replace("1 / self.num_batches_tracked if", "self.num_batches_tracked.double() ** -1 if")
        .replace("self.running_mean += a * (mean - self.running_mean)", "self.running_mean.mul_(1 - a).add_(a * mean)"),
    ),
    right(
        "buffers written through data, functional evaluation",
        "layer-code",
        LAYER.replace("GAP", BUFFERS)
        .replace("with torch.no_grad():", "for mean_, var_ in [(mean.detach(), var.detach())]:")
        .replace("self.running_mean += a * (mean -", "self.running_mean.data += a * (mean_ -")
        .replace("self.running_var += a * (var *", "self.running_var.data += a * (var_ *"),
    ),
    right(
        "a diagonal matrix and new parameters",
        "folding-code",
        """def fold(linear, norm):
    a = norm.weight.detach() * torch.rsqrt(norm.running_var + norm.eps)
    b = norm.bias - a * norm.running_mean
    new = torch.nn.Linear(linear.in_features, linear.out_features, bias=True)
    new.weight = torch.nn.Parameter((torch.diag(a) @ linear.weight).detach())
    new.bias = torch.nn.Parameter((b if linear.bias is None else b + a * linear.bias).detach())
    return new
""",
    ),
    right(
        "the answers to 0 and to unit vectors",
        "folding-code",
        """def fold(linear, norm):
    import copy

    new = copy.deepcopy(linear).requires_grad_(False)
    answer = lambda x: (linear(x) - norm.running_mean) / (norm.running_var + norm.eps) ** 0.5
    n, dtype = linear.in_features, linear.weight.dtype
    new.bias = torch.nn.Parameter((norm.weight * answer(torch.zeros(n, dtype=dtype)) + norm.bias).detach())
    columns = norm.weight * answer(torch.eye(n, dtype=dtype)) + norm.bias - new.bias
    new.weight.copy_(columns.T)
    return new.requires_grad_()
""",
    ),
    right(
        "A, the two weights exchanged for a moment",
        "mend-a",
        """class MendedA(museum.ExhibitA):
    def update(self, x, mean, var):
        self.momentum = 1 - self.momentum
        super().update(x, mean, var)
        self.momentum = 1 - self.momentum
""",
    ),
    right(
        "B, as a table of rows",
        "mend-b",
        """class MendedB(museum.ExhibitB):
    def statistics(self, x):
        found = super().statistics(x.movedim(1, -1).reshape(-1, x.shape[1]))
        return tuple(museum.per_channel(part.flatten(), x) for part in found)
""",
    ),
    right(
        "C, float64 for the difference",
        "mend-c",
        """class MendedC(museum.ExhibitC):
    def statistics(self, x):
        return tuple(part.to(x.dtype) for part in super().statistics(x.double()))
""",
    ),
    right(
        "D, the statistics of the batch taken where they are used",
        "mend-d",
        """class MendedD(museum.ExhibitD):
    def normalize(self, x, mean, var):
        if self.training:
            var, mean = torch.var_mean(x, museum.reduced_axes(x), correction=0, keepdim=True)
        return super().normalize(x, mean, var)
""",
    ),
    right(
        "H, the stored factor moved to the update",
        "mend-h",
        """class MendedH(museum.ExhibitH):
    def normalize(self, x, mean, var):
        m = x.numel() // x.shape[1]
        return super().normalize(x, mean, var * (m - 1) / m if self.training else var)
""",
    ),
    right(
        "I, no_grad around the update",
        "mend-i",
        """class MendedI(museum.ExhibitI):
    update = torch.no_grad()(museum.ExhibitI.update)
""",
    ),
]  # fmt: skip
