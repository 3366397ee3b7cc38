"""Wrong and right variants of the solutions of assignment 3.

Every mutant must lose points in its task; every equivalent must lose none in any.
"""

NOISE = """def disturb(a, u_mu, u_sigma, u_m, e_s, n_mu=0.5, n_sigma=1.25, r_mu=0.1, r_sigma=0.1):
"""
PROBE = """def line_probe(net, x, y, sizes, loss=cross_entropy):
"""


def _mutants(task, cell, *rows):
    return [dict(name=f"{task}: {name}", task=task, cell=cell, swap=swap) for name, *swap in rows]


MUTANTS = [
    *_mutants(
        "draw",
        "draw-code",
        (
            "noise of the values shared by the batch",
            "rand(tuple(shape)), randn(tuple(shape))",
            "rand((1, *shape[1:])), randn((1, *shape[1:]))",
        ),
        (
            "one shift for all units",
            "return rand((channels,)), rand",
            "return rand((1,)).expand(channels), rand",
        ),
        ("uniform in place of normal", "randn(tuple(shape))", "rand(tuple(shape))"),
        (
            "centered already",
            "return rand((channels,)), rand",
            "return 2 * rand((channels,)) - 1, rand",
        ),
        (
            "shift and scale from one number",
            "return rand((channels,)), rand((channels,)), rand(tuple(shape)), randn(tuple(shape))",
            "return (u := rand((channels,))), u, rand(tuple(shape)), randn(tuple(shape))",
        ),
        (
            "units along the last axis",
            "channels = shape[1]",
            "channels = shape[-1]",
        ),
        (
            "drawn once and kept",
            "    channels = shape[1]\n    return rand((channels,)), rand((channels,)), "
            "rand(tuple(shape)), randn(tuple(shape))",
            "    if not hasattr(draw, 'kept') or draw.kept[2].shape != tuple(shape):\n"
            "        c = shape[1:2]\n"
            "        draw.kept = rand(c), rand(c), rand(tuple(shape)), randn(tuple(shape))\n"
            "    return draw.kept",
        ),
        (
            "from torch's generator, not from the sources",
            "return rand((channels,)), rand",
            "return torch.rand((channels,)).double(), rand",
        ),
    ),
    *_mutants(
        "disturb",
        "disturb-code",
        ("shift in place of both sides", "n_mu * (2 * u_mu - 1)", "n_mu * u_mu"),
        ("interval of half the width", "n_mu * (2 * u_mu - 1)", "n_mu * (u_mu - 0.5)"),
        ("scale from 0", "1 + (n_sigma - 1) * u_sigma", "n_sigma * u_sigma"),
        (
            "scale on both sides of 1",
            "(n_sigma - 1) * u_sigma",
            "(n_sigma - 1) * (2 * u_sigma - 1)",
        ),
        ("jitter on one side", "r_mu * (2 * u_m - 1)", "r_mu * u_m"),
        ("variance in place of deviation", "r_sigma * e_s", "r_sigma**0.5 * e_s"),
        ("deviation squared", "r_sigma * e_s", "r_sigma**2 * e_s"),
        ("m shared by the batch", "r_mu * (2 * u_m - 1)", "r_mu * (2 * u_m[:1] - 1)"),
        ("s shared by the batch", "r_sigma * e_s", "r_sigma * e_s[:1]"),
        ("m shared by the units", "r_mu * (2 * u_m - 1)", "r_mu * (2 * u_m[:, :1] - 1)"),
        ("mu shared by the units", "mu.view(per_unit) +", "mu[0] +"),
        ("sigma shared by the units", "sigma.view(per_unit) +", "sigma.mean() +"),
        ("shift before scale", "return s * a + m", "return s * (a + m)"),
        ("jitter of the shift forgotten", " + r_mu * (2 * u_m - 1)", ""),
        ("jitter of the scale forgotten", " + r_sigma * e_s", ""),
        ("constants of the paper written in", "n_mu * (2", "0.5 * (2"),
        (
            "units along the last axis",
            "per_unit = (1, -1) + (1,) * (a.dim() - 2)",
            "per_unit = (-1,)",
        ),
        ("float64 out", "return s * a + m", "return (s * a + m).double()"),
        ("float32 inside", "return s * a + m", "return (s.float() * a.float() + m).to(a.dtype)"),
        ("input overwritten", "return s * a + m", "return a.mul_(s).add_(m)"),
        ("draws overwritten", "u_m - 1)\n", "u_m.sub_(0.5).add_(0.5) - 1)\n    u_m.mul_(0)\n"),
        ("spread of sigma is n_sigma", "(n_sigma - 1) * u_sigma", "n_sigma * u_sigma"),
        ("standard numbers used twice", "r_sigma * e_s", "r_sigma * (2 * u_m - 1)"),
        ("pixels share their noise", "r_mu * (2 * u_m - 1)", "r_mu * (2 * u_m[..., :1] - 1)"),
    ),
    *_mutants(
        "noisy-batch-norm",
        "noisy-code",
        (
            "noise in front of the norm",
            "    axes = [",
            "    z, still = disturb(z, *draws, **constants), dict(n_mu=0, n_sigma=1)\n"
            "    constants = still | dict(r_mu=0, r_sigma=0)\n    axes = [",
        ),
        (
            "noise between the norm and its scale",
            "return disturb(gamma.view(per_unit) * z_hat + beta.view(per_unit), *draws, **constants)",
            "return gamma.view(per_unit) * disturb(z_hat, *draws, **constants)"
            " + beta.view(per_unit)",
        ),
        (
            "unbiased variance",
            "centered.square().mean(axes, keepdim=True)",
            "z.var(axes, keepdim=True)",
        ),
        (
            "eps outside the root",
            "(centered.square().mean(axes, keepdim=True) + eps).sqrt()",
            "(centered.square().mean(axes, keepdim=True).sqrt() + eps)",
        ),
        ("eps written in", "keepdim=True) + eps", "keepdim=True) + 1e-5"),
        (
            "mean detached",
            "z - z.mean(axes, keepdim=True)",
            "z - z.detach().mean(axes, keepdim=True)",
        ),
        (
            "variance detached",
            "centered.square().mean(axes, keepdim=True) + eps",
            "centered.detach().square().mean(axes, keepdim=True) + eps",
        ),
        ("statistics of every pixel", "if axis != 1]", "if axis == 0]"),
        ("statistics of every example", "if axis != 1]", "if axis != 0]"),
        ("constants not handed on", "*draws, **constants)", "*draws)"),
        ("gamma forgotten", "gamma.view(per_unit) * z_hat", "z_hat"),
        (
            "gamma and beta detached",
            "return disturb(",
            "gamma = gamma.detach()\n    return disturb(",
        ),
        ("noise of its own", "*draws, **constants", "*draw(z.shape), **constants"),
        (
            "draws in another order",
            "*draws, **constants",
            "draws[1], draws[0], *draws[2:], **constants",
        ),
    ),
    *_mutants(
        "line-probe",
        "line-probe-code",
        (
            "weights not restored",
            "        for w, s in zip(weights, start, strict=True):\n            w.copy_(s)\n",
            "",
        ),
        (
            "weights restored by walking back",
            "            w.copy_(s)\n",
            "            w.add_(size * g[[w is v for v in weights].index(True)])\n",
        ),
        (
            "new parameters in place of the old",
            "            w.copy_(s)\n        for buffer",
            "            w.data = s\n        for m in net.modules():\n"
            "            for k, v in list(m._parameters.items()):\n"
            "                m._parameters[k] = torch.nn.Parameter(v.detach().clone())\n"
            "        [w.zero_() for w in weights]\n        for buffer",
        ),
        ("buffers not restored", "            buffer.copy_(kept)", "            pass"),
        ("buffers kept by reference", "(b, b.clone())", "(b, b)"),
        (
            "another batch",
            "value = loss(net(x), y)",
            "value = loss(net(x[:-1]), None if y is None else y[:-1])",
        ),
        ("evaluation mode", "    def look():\n", "    net.eval()\n\n    def look():\n"),
        ("training mode", "    def look():\n", "    net.train()\n\n    def look():\n"),
        ("uphill", "w.copy_(s - size * d)", "w.copy_(s + size * d)"),
        ("from the last point", "w.copy_(s - size * d)", "w.sub_(size * d)"),
        (
            "compared with the last point",
            "        losses.append(value)\n",
            "        losses.append(value)\n        g = there\n",
        ),
        ("divided by the step, not the distance", "change / (size * length(g))", "change / size"),
        ("divided by the gradient only", "change / (size * length(g))", "change / length(g)"),
        ("mean in place of the maximum", "torch.stack(ratios).max()", "torch.stack(ratios).mean()"),
        ("the last in place of the maximum", "torch.stack(ratios).max()", "ratios[-1]"),
        (
            "the largest change per largest distance",
            "torch.stack(ratios).max()",
            "max(changes) / (max(sizes) * length(g))",
        ),
        (
            "sum of the lengths",
            "torch.stack([part.square().sum() for part in parts]).sum().sqrt()",
            "sum(part.square().sum().sqrt() for part in parts)",
        ),
        (
            "squared length",
            "torch.stack([part.square().sum() for part in parts]).sum().sqrt()",
            "torch.stack([part.square().sum() for part in parts]).sum()",
        ),
        (
            "first parameter only",
            "for a, b in zip(there, g, strict=True)])",
            "for a, b in list(zip(there, g, strict=True))[:1]])",
        ),
        (
            "change of the lengths",
            "length([a - b for a, b in zip(there, g, strict=True)])",
            "(length(there) - length(g)).abs()",
        ),
        (
            "direction of length one",
            "    losses, changes, ratios = [], [], []\n    _, g = look()\n",
            "    losses, changes, ratios = [], [], []\n    _, g = look()\n    g = [d / length(g) for d in g]\n",
        ),
        (
            "gradient left in .grad",
            "return value.detach(), torch.autograd.grad(value, weights)",
            "value.backward()\n        grads = [w.grad.clone() for w in weights]\n"
            "        net.zero_grad()\n        return value.detach(), grads",
        ),
        (
            "a copy in evaluation mode",
            "    weights = list(net.parameters())",
            "    import copy\n\n    net = copy.deepcopy(net).eval()\n"
            "    weights = list(net.parameters())",
        ),
        (
            "the first gradient overwritten by the next",
            "        change = length([a - b for a, b in zip(there, g, strict=True)])\n",
            "        g = there\n"
            "        change = length([a - b for a, b in zip(there, g, strict=True)])\n",
        ),
        (
            "the distance by the gradient at the end",
            "change / (size * length(g))",
            "change / (size * length(there))",
        ),
        ("always the cross-entropy", "value = loss(net(x), y)", "value = cross_entropy(net(x), y)"),
        (
            "start among the losses",
            "    losses, changes, ratios = [], [], []\n    _, g = look()\n",
            "    losses, changes, ratios = [], [], []\n    first, g = look()\n    losses.append(first)\n",
        ),
        ("sizes sorted", "for size in sizes:", "for size in sorted(sizes):"),
    ),
    dict(
        name="nothing moves",
        task="line-probe",
        cell="line-probe-code",
        source=PROBE
        + """    value = loss(net(x), y).detach() * 0
    zeros = value.expand(len(sizes))
    return {"losses": zeros, "changes": zeros, "smoothness": value}
""",
    ),
    *_mutants(
        "theorem-sides",
        "sides-code",
        (
            "printed: mended in silence",
            "(g * z_hat).sum() ** 2 / m**0.5",
            "(g * z_hat).sum() ** 2 / m",
        ),
        (
            "printed: gamma / sigma",
            "return (gamma / sigma) ** 2 * bracket",
            "return (gamma / sigma) * bracket",
        ),
        ("printed: 1/sqrt(m) twice", "g.sum() ** 2 / m ", "g.sum() ** 2 / m**0.5 "),
        ("printed: unbiased deviation", "len(z), z.std(correction=0)", "len(z), z.std()"),
        ("printed: mean of g", "g.sum() ** 2 / m ", "g.mean() ** 2 / m "),
        ("printed: z in place of z_hat", "(g * z_hat).sum()", "(g * z).sum()"),
        ("printed: gamma forgotten", "(gamma / sigma) ** 2", "(1 / sigma) ** 2"),
        ("printed: plus", " - (g * z_hat).sum()", " + (g * z_hat).sum()"),
        (
            "printed: eps added",
            "z_hat = (z - z.mean()) / sigma",
            "sigma = (sigma**2 + 1e-5).sqrt()\n    z_hat = (z - z.mean()) / sigma",
        ),
        ("printed: no square", "(g * z_hat).sum() ** 2 / m**0.5", "(g * z_hat).sum() / m**0.5"),
    ),
    *_mutants(
        "theorem-needed",
        "needed-code",
        (
            "printed line mended in silence",
            "ones / m + hats / m**0.5) / squares",
            "ones / m + hats / m) / squares",
        ),
        ("gamma forgotten", "bracket = left / front", "bracket = left * z.var(correction=0)"),
        ("multiplied by the front", "bracket = left / front", "bracket = left * front"),
        ("sums not squared", "g.sum() ** 2, (g * z_hat).sum() ** 2", "g.sum(), (g * z_hat).sum()"),
        ("sums of squares", "g.sum() ** 2, (g * z_hat)", "g.square().sum(), (g * z_hat)"),
        (
            "the value of the term in place of the factor",
            "c = (squares - hats / m**0.5 - bracket) / ones",
            "c = squares - hats / m**0.5 - bracket",
        ),
        (
            "all the others as mended",
            "    bracket = left / front\n",
            "    bracket, hats = left / front, hats / m**0.5\n",
        ),
        (
            "signs of the others",
            "b = (bracket + ones / m + hats / m**0.5)",
            "b = (bracket - ones / m - hats / m**0.5)",
        ),
        (
            "no infinity",
            "    d = (squares - ones / m - bracket) / hats\n",
            "    d = (squares - ones / m - bracket) / hats\n    c = c.nan_to_num()\n",
        ),
        ("example lost", "    bracket = left / front\n", "    bracket = a = left / front\n"),
        (
            "sign of the second",
            "c = (squares - hats / m**0.5 - bracket)",
            "c = -(squares - hats / m**0.5 - bracket)",
        ),
        ("the third includes m", "- bracket) / hats", "- bracket) / (hats / m)"),
        ("left not divided by the front", "bracket = left / front", "bracket = left"),
        ("another order", "torch.stack([a, b, c, d])", "torch.stack([a, b, d, c])"),
        (
            "what is known from the errata",
            "d = (squares - ones / m - bracket) / hats",
            "d = torch.tensor(1 / m, dtype=torch.float64)",
        ),
    ),
    *_mutants(
        "theorem-mended",
        "mended-code",
        ("as printed", "(g * z_hat).sum() ** 2 / m\n", "(g * z_hat).sum() ** 2 / m**0.5\n"),
        ("third term left out", " - (g * z_hat).sum() ** 2 / m\n", "\n"),
        ("1/m²", "(g * z_hat).sum() ** 2 / m\n", "(g * z_hat).sum() ** 2 / m**2\n"),
        ("1/(m-1)", "(g * z_hat).sum() ** 2 / m\n", "(g * z_hat).sum() ** 2 / (m - 1)\n"),
        (
            "1/4, right for four numbers",
            "(g * z_hat).sum() ** 2 / m\n",
            "(g * z_hat).sum() ** 2 / 4\n",
        ),
        (
            "1/(2√m), right for four numbers",
            "(g * z_hat).sum() ** 2 / m\n",
            "(g * z_hat).sum() ** 2 / (2 * m**0.5)\n",
        ),
        ("product not squared", "(g * z_hat).sum() ** 2 / m\n", "(g * z_hat).sum().abs() / m\n"),
        ("gamma / sigma not squared", "(gamma / sigma) ** 2", "(gamma / sigma)"),
        ("gamma² / sigma", "(gamma / sigma) ** 2", "gamma**2 / sigma"),
        ("gamma / sigma²", "(gamma / sigma) ** 2", "gamma / sigma**2"),
        ("gamma forgotten", "(gamma / sigma) ** 2", "(1 / sigma) ** 2"),
        ("unbiased deviation", "len(z), z.std(correction=0)", "len(z), z.std()"),
        ("second term 1/√m", "g.sum() ** 2 / m ", "g.sum() ** 2 / m**0.5 "),
        ("z in place of z_hat", "(g * z_hat).sum() ** 2 / m\n", "(g * z).sum() ** 2 / m\n"),
        (
            "eps added",
            "z_hat = (z - z.mean()) / sigma",
            "sigma = (sigma**2 + 1e-5).sqrt()\n    z_hat = (z - z.mean()) / sigma",
        ),
        ("float32", "    m, sigma = ", "    g, z = g.float(), z.float()\n    m, sigma = "),
    ),
    dict(name="another letter", task="theorem-mended", cell="factor-code", swap=('"D"', '"C"')),
]

EQUIVALENTS = [
    dict(
        name="draw: two rows at once",
        cell="draw-code",
        source="""def draw(shape, rand=torch.rand, randn=torch.randn):
    both = rand(2, shape[1])
    e = randn(*shape)
    return both[0], both[1], rand(*shape), e
""",
    ),
    dict(
        name="disturb: channels last, by lerp, float64 inside",
        cell="disturb-code",
        source=NOISE
        + """    x = a.movedim(1, -1).double()
    low = torch.tensor(-n_mu, dtype=torch.float64)
    mu = torch.lerp(low, -low, u_mu.double())
    sigma = torch.lerp(torch.ones_like(mu), torch.full_like(mu, n_sigma), u_sigma.double())
    m = (mu - r_mu) + u_m.movedim(1, -1).double() * (2 * r_mu)
    s = torch.addcmul(sigma.expand_as(x), e_s.movedim(1, -1).double(), torch.tensor(r_sigma, dtype=torch.float64))
    return torch.addcmul(m, s, x).movedim(-1, 1).to(a.dtype)
""",
    ),
    dict(
        name="disturb: unit by unit",
        cell="disturb-code",
        source=NOISE
        + """    out = torch.empty_like(a)
    for j in range(a.shape[1]):
        mu, sigma = -n_mu + 2 * n_mu * u_mu[j], 1 + u_sigma[j] * (n_sigma - 1)
        shift = (mu - r_mu) + ((mu + r_mu) - (mu - r_mu)) * u_m[:, j]
        out[:, j] = a[:, j] * (sigma + e_s[:, j] * r_sigma) + shift
    return out
""",
    ),
    dict(
        name="noisy batch norm: flattened, var(correction=0), float64 inside",
        cell="noisy-code",
        source="""def noisy_batch_norm(z, gamma, beta, draws, eps=1e-5, **constants):
    rows = z.transpose(0, 1).flatten(1).double()
    var, mean = torch.var_mean(rows, 1, correction=0, keepdim=True)
    scale = gamma.double()[:, None] * torch.rsqrt(var + eps)
    out = torch.addcmul(beta.double()[:, None] - mean * scale, rows, scale)
    shape = (z.shape[1], z.shape[0], *z.shape[2:])
    return disturb(out.reshape(shape).transpose(0, 1).to(z.dtype), *draws, **constants)
""",
    ),
    dict(
        name="line probe: on a deep copy, with backward",
        cell="line-probe-code",
        source="import copy\n\n\n"
        + PROBE
        + """    def look(move, size):
        twin = copy.deepcopy(net)
        with torch.no_grad():
            for w, d in zip(twin.parameters(), move):
                w -= size * d
        twin.zero_grad()
        value = loss(twin(x), y)
        value.backward()
        return value.item(), torch.cat([w.grad.flatten() for w in twin.parameters()])

    cuts = [w.numel() for w in net.parameters()]
    _, g = look([torch.zeros_like(w) for w in net.parameters()], 0.0)
    move = [d.view_as(w) for d, w in zip(g.split(cuts), net.parameters())]
    found = [look(move, size) for size in sizes]
    changes = [torch.dist(there, g).item() for _, there in found]
    return {
        "losses": torch.tensor([value for value, _ in found], dtype=torch.float64),
        "changes": torch.tensor(changes, dtype=torch.float64),
        "smoothness": max(c / (s * g.norm().item()) for c, s in zip(changes, sizes)),
    }
""",
    ),
    dict(
        name="line probe: functional_call with copies of the buffers",
        cell="line-probe-code",
        source=PROBE
        + """    start = {k: p.detach().clone() for k, p in net.named_parameters()}

    def look(point):
        point = {k: p.clone().requires_grad_() for k, p in point.items()}
        buffers = {k: b.clone() for k, b in net.named_buffers()}
        value = loss(torch.func.functional_call(net, (point, buffers), (x,)), y)
        return value.detach(), dict(zip(point, torch.autograd.grad(value, list(point.values()))))

    _, g = look(start)
    distance = sum((d**2).sum() for d in g.values()) ** 0.5
    losses, changes = [], []
    for size in sizes:
        value, there = look({k: p - size * g[k] for k, p in start.items()})
        losses.append(value)
        changes.append(sum(((there[k] - g[k]) ** 2).sum() for k in g) ** 0.5)
    smoothness = max(c / (s * distance) for c, s in zip(changes, sizes))
    return {"losses": losses, "changes": changes, "smoothness": smoothness}
""",
    ),
    dict(
        name="line probe: state dict, backward, .grad put back",
        cell="line-probe-code",
        source="import copy\n\n\n"
        + PROBE
        + """    state, grads = copy.deepcopy(net.state_dict()), [p.grad for p in net.parameters()]

    def look():
        for p in net.parameters():
            p.grad = None
        value = loss(net(x), y)
        value.backward()
        return float(value), [p.grad for p in net.parameters()]

    _, g = look()
    losses, changes, best = [], [], 0.0
    length = float(torch.cat([d.flatten() for d in g]).norm())
    for size in sizes:
        net.load_state_dict(state)
        for p, d in zip(net.parameters(), g):
            p.data -= size * d
        value, there = look()
        change = float(torch.cat([(a - b).flatten() for a, b in zip(there, g)]).norm())
        losses, changes = losses + [value], changes + [change]
        best = max(best, change / (size * length))
    net.load_state_dict(state)
    for p, old in zip(net.parameters(), grads):
        p.grad = old
    return {"losses": losses, "changes": changes, "smoothness": best}
""",
    ),
    dict(
        name="printed side: einsum",
        cell="sides-code",
        source="""def printed_right_side(g, z, gamma):
    m, var = z.numel(), z.var(correction=0)
    z_hat = (z - z.mean()) * var.rsqrt()
    one = torch.einsum("i->", g)
    along = torch.einsum("i,i->", g, z_hat)
    return gamma**2 / var * (g @ g - one * g.mean() - along**2 / m**0.5)
""",
    ),
    dict(
        name="needed factors: two points of a straight line",
        cell="needed-code",
        source="""def needed_factors(left, g, z, gamma):
    m = len(z)
    unit = (z - z.mean()) / (z - z.mean()).norm()
    sums = torch.stack([g @ g, -(m * g.mean()) ** 2, -m * (g @ unit) ** 2])

    def right(front, inside):
        return front * (torch.as_tensor(inside, dtype=torch.float64) * sums).sum()

    printed = [gamma**2 / z.var(correction=0), [1.0, 1 / m, m**-0.5]]
    found = [left / right(1.0, printed[1])]
    for i in range(3):
        zero, one = ([*printed[1][:i], by, *printed[1][i + 1 :]] for by in (0.0, 1.0))
        low, high = right(printed[0], zero), right(printed[0], one)
        found.append((left - low) / (high - low))
    return torch.tensor([float(part) for part in found], dtype=torch.float64)
""",
    ),
    dict(
        name="mended theorem: the rest of a projection",
        cell="mended-code",
        source="""def theorem_41(g, z, gamma):
    unit = (z - z.mean()) / (z - z.mean()).norm()
    rest = g - g.mean()
    rest = rest - (rest @ unit) * unit
    return gamma**2 * rest.square().sum() / z.var(correction=0)
""",
    ),
]
