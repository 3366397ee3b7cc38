"""Broken and unusual solutions of "Predict the matrix", as data.

Each mutant must lose points in its task; each equivalent is correct and must lose nothing.
``swap`` replaces a text that occurs once in the cell of the source notebook; ``source`` is the
whole new cell.
"""


def mutant(name: str, task: str, *swap: str, cell: str = "") -> dict:
    """A swap in a solution cell, which is the one of the task unless it is named."""
    return {"name": name, "task": task, "cell": cell or f"{task}-code", "swap": swap}


def whole(name: str, cell: str, source: str, task: str = "") -> dict:
    """Another source for a whole cell."""
    return {
        "name": name,
        "task": task or cell.removesuffix("-code"),
        "cell": cell,
        "source": source,
    }


CENTERED = "centered = z - z.mean(-1, keepdim=True)"
VARIANCE = "variance = centered.square().mean(-1, keepdim=True)"
DIVIDE = "y = centered / (variance + eps).sqrt()"
LENGTH = "length = torch.linalg.vector_norm(v, dim=1, keepdim=True)"
GUARD = "torch.where(length > 0, length, torch.ones_like(length))"
X_LENGTH = "x_length = torch.linalg.vector_norm(x, dim=1, keepdim=True).clamp(min=eps)"
W_LENGTH = "w_length = torch.linalg.vector_norm(w, dim=1, keepdim=True).clamp(min=eps)"
COSINE = "return (x / x_length) @ (w / w_length).T"
CHANGE = "return ((after - before).norm() / before.norm()).item()"
IS_ALL = "return all(relative_change(layer, change, W, X) < tolerance for W, X in draws)"
GRADIENT = "(gradient,) = torch.autograd.grad((T * layer(W, X)).sum(), W)"
FIT = "return float(np.polyfit(np.log10(scales), np.log10(lengths), 1)[0])"

HARD_CODED = """def relative_change(layer, change, W, X):
    known = {"2W": 0.0, "3W": 2.0}
    before, after = layer(W, X), layer(*change(W, X))
    if torch.allclose(after, before):
        return known["2W"]
    return known["3W"]
"""
BY_NAME = """def is_invariant(layer, change, draws, tolerance=1e-9):
    return all(relative_change(layer, change, W, X) < tolerance for W, X in draws)


def invariance_matrix(layers, changes, draws):
    rows = {"batch": "ynynynyy", "layer": "ynnyyynn", "weight": "ynynnnnn", "cosine": "ynynyynn"}
    return {
        name: {title: mark == "y" for title, mark in zip(changes, row, strict=True)}
        for name, row in rows.items()
    }
"""
HALF_A_GRID = '''def my_prediction():
    grid = selfcheck.read_grid("""
                2W  -2W  3w  W+v  4X  5x  X+c  X+a
        batch   y   y    y   n    y   n   y    y
        layer   y   y    y   y    y   y   n    y
    """)
    return grid | {"weight": dict.fromkeys(selfcheck.CHANGES), "cosine": grid["batch"]}
'''

MUTANTS = [
    mutant("eps outside the root", "layer-norm", DIVIDE, "y = centered / (variance.sqrt() + eps)"),
    mutant("no eps", "layer-norm", DIVIDE, "y = centered / variance.sqrt()"),
    mutant("eps fixed at 1e-5", "layer-norm", DIVIDE, "y = centered / (variance + 1e-5).sqrt()"),
    mutant("unbiased variance", "layer-norm", VARIANCE, "variance = z.var(-1, keepdim=True)"),
    mutant(
        "variance of N + 1", "layer-norm", VARIANCE, VARIANCE + " * z.shape[-1] / (z.shape[-1] + 1)"
    ),
    whole(
        "torch's own layer norm",
        "layer-norm-code",
        """def layer_norm(z, gamma=None, beta=None, eps=1e-5):
    return torch.nn.functional.layer_norm(z, z.shape[-1:], gamma, beta, eps)
""",
    ),
    mutant("no root", "layer-norm", DIVIDE, "y = centered / (variance + eps)"),
    whole(
        "batch axis",
        "layer-norm-code",
        """def layer_norm(z, gamma=None, beta=None, eps=1e-5):
    y = (z - z.mean(0)) / (z.var(0, correction=0) + eps).sqrt()
    y = y if gamma is None else y * gamma
    return y if beta is None else y + beta
""",
    ),
    mutant(
        "axis 1 of any input",
        "layer-norm",
        CENTERED,
        "centered = z - z.mean(min(1, z.dim() - 1), keepdim=True)",
    ),
    whole(
        "one mean for the whole input",
        "layer-norm-code",
        """def layer_norm(z, gamma=None, beta=None, eps=1e-5):
    y = (z - z.mean()) / (z.var(correction=0) + eps).sqrt()
    y = y if gamma is None else y * gamma
    return y if beta is None else y + beta
""",
    ),
    mutant(
        "gamma along the wrong axis if square",
        "layer-norm",
        "y = y * gamma",
        "y = y * (gamma[:, None] if len(gamma) == y.shape[0] else gamma)",
    ),
    mutant("gamma reduced to one number", "layer-norm", "y = y * gamma", "y = y * gamma.mean()"),
    mutant("beta before gamma", "layer-norm", "y = y * gamma", "y = (y + beta) * gamma - beta"),
    mutant("gamma without its sign", "layer-norm", "y = y * gamma", "y = y * gamma.abs()"),
    mutant(
        "no beta without gamma",
        "layer-norm",
        "return y if beta is None else",
        "return y if gamma is None else",
    ),
    mutant(
        "no gamma without beta",
        "layer-norm",
        "if gamma is not None:",
        "if gamma is not None and beta is not None:",
    ),
    mutant("an axis too many", "layer-norm", "y = y * gamma", "y = y * gamma.view(1, -1)"),
    mutant(
        "cast to float32",
        "layer-norm",
        CENTERED,
        "dtype, z = z.dtype, z.float()\n    " + CENTERED + ".to(dtype)",
    ),
    mutant("returns float64", "layer-norm", CENTERED, CENTERED + ".double()"),
    mutant(
        "input changed in place",
        "layer-norm",
        CENTERED,
        "z -= z.mean(-1, keepdim=True)\n    centered = z",
    ),
    mutant(
        "gamma changed in place",
        "layer-norm",
        "y = y * gamma",
        "gamma += 1e-3\n        y = y * gamma",
    ),
    mutant("statistics without a graph", "layer-norm", VARIANCE, VARIANCE + ".detach()"),
    mutant("no graph at all", "layer-norm", CENTERED, CENTERED + ".detach()"),
    mutant(
        "mean of squares less square of mean",
        "layer-norm",
        VARIANCE,
        "variance = z.square().mean(-1, keepdim=True) - z.mean(-1, keepdim=True) ** 2",
    ),
    mutant("mean not subtracted", "layer-norm", CENTERED, "centered = z"),
    mutant("two axes only", "layer-norm", CENTERED, "centered = z - z.mean(1, keepdim=True)"),
    mutant("norm of the whole matrix", "weight-norm", LENGTH, "length = v.norm()"),
    mutant("norm of the columns", "weight-norm", LENGTH, "length = v.norm(dim=0, keepdim=True)"),
    mutant(
        "sum of absolute values", "weight-norm", LENGTH, "length = v.abs().sum(1, keepdim=True)"
    ),
    mutant(
        "root of the mean square",
        "weight-norm",
        LENGTH,
        "length = v.square().mean(1, keepdim=True).sqrt()",
    ),
    mutant("NaN for a row of zeros", "weight-norm", GUARD, "length"),
    mutant("something added to the length", "weight-norm", GUARD, "(length + 1e-32)"),
    mutant("least length", "weight-norm", GUARD, "length.clamp(min=1e-12)"),
    mutant(
        "g along the columns",
        "weight-norm",
        "g[:, None] * v",
        "(g if v.shape[0] == v.shape[1] else g[:, None]) * v",
    ),
    mutant("g without its sign", "weight-norm", "g[:, None]", "g.abs()[:, None]"),
    mutant("g left out", "weight-norm", "g[:, None] * v", "v"),
    mutant("length without a graph", "weight-norm", LENGTH, LENGTH + ".detach()"),
    mutant("squared length", "weight-norm", LENGTH, LENGTH + " ** 2"),
    mutant(
        "v divided in place",
        "weight-norm",
        LENGTH,
        LENGTH + "\n    v /= length.clamp(min=1e-300)\n    length = length.clamp(max=1) ** 0",
    ),
    mutant(
        "length in float32",
        "weight-norm",
        LENGTH,
        "dtype, g = v.dtype, g.float().to(v.dtype)\n    " + LENGTH + ".float().to(dtype)",
    ),
    mutant("length of w left out", "cosine-norm", COSINE, "return (x / x_length) @ w.T"),
    mutant("length of x left out", "cosine-norm", COSINE, "return x @ (w / w_length).T"),
    mutant(
        "eps added to the lengths",
        "cosine-norm",
        COSINE,
        "return (x / (x_length + eps)) @ (w / (w_length + eps)).T",
    ),
    mutant(
        "eps under the root",
        "cosine-norm",
        X_LENGTH,
        "x_length = (x.square().sum(1, keepdim=True) + eps).sqrt()",
    ),
    mutant(
        "eps for the product",
        "cosine-norm",
        COSINE,
        "lengths = x.norm(dim=1)[:, None] * w.norm(dim=1)\n    return (x @ w.T) / lengths.clamp(min=eps)",
    ),
    mutant("eps fixed", "cosine-norm", W_LENGTH, W_LENGTH.replace("=eps", "=1e-8")),
    mutant("no eps, NaN", "cosine-norm", X_LENGTH, X_LENGTH.replace(".clamp(min=eps)", "")),
    mutant("no eps for w", "cosine-norm", W_LENGTH, W_LENGTH.replace(".clamp(min=eps)", "")),
    mutant(
        "one length for all examples", "cosine-norm", X_LENGTH, "x_length = x.norm().clamp(min=eps)"
    ),
    mutant(
        "length along the other axis", "cosine-norm", W_LENGTH, W_LENGTH.replace("dim=1", "dim=0")
    ),
    mutant(
        "clipped to the positive",
        "cosine-norm",
        COSINE,
        "return ((x / x_length) @ (w / w_length).T).clamp(min=0)",
    ),
    mutant(
        "centered cosine",
        "cosine-norm",
        X_LENGTH,
        "x = x - x.mean(1, keepdim=True)\n    " + X_LENGTH,
    ),
    mutant(
        "x divided in place",
        "cosine-norm",
        COSINE,
        "x /= x_length\n    return x @ (w / w_length).T",
    ),
    mutant("lengths without a graph", "cosine-norm", X_LENGTH, X_LENGTH + ".detach()"),
    mutant(
        "cosines in float32",
        "cosine-norm",
        COSINE,
        "return ((x / x_length).float() @ (w / w_length).float().T).to(x.dtype)",
    ),
    mutant("transposed", "cosine-norm", COSINE, "return (w / w_length) @ (x / x_length).T"),
    whole("half a grid", "prediction-code", HALF_A_GRID),
    mutant("another seal", "prediction", '"5d62ff14"', '"00000000"', cell="seal-code"),
    mutant("share of the new output", "change", CHANGE, CHANGE.replace("/ before", "/ after")),
    mutant("not a share", "change", CHANGE, "return (after - before).norm().item()"),
    mutant(
        "lengths compared, not outputs",
        "change",
        CHANGE,
        "return ((after.norm() - before.norm()).abs() / before.norm()).item()",
    ),
    mutant(
        "sign ignored",
        "change",
        CHANGE,
        "return ((after.abs() - before.abs()).norm() / before.norm()).item()",
    ),
    mutant(
        "largest entry",
        "change",
        CHANGE,
        "return ((after - before).abs().max() / before.abs().max()).item()",
    ),
    mutant(
        "squares without the root",
        "change",
        CHANGE,
        "return ((after - before).square().sum() / before.square().sum()).item()",
    ),
    mutant("only W is changed", "change", "layer(*change(W, X))", "layer(change(W, X)[0], X)"),
    mutant("only X is changed", "change", "layer(*change(W, X))", "layer(W, change(W, X)[1])"),
    mutant(
        "float32 inside",
        "change",
        "after = layer(*change(W, X))",
        "before, after = before.float(), layer(*change(W, X)).float()",
    ),
    whole("hard-coded", "change-code", HARD_CODED),
    mutant("any draw", "matrix", IS_ALL, IS_ALL.replace("all(", "any(")),
    mutant("first draw only", "matrix", IS_ALL, IS_ALL.replace("in draws)", "in draws[:1])")),
    mutant("last draw only", "matrix", IS_ALL, IS_ALL.replace("in draws)", "in draws[-1:])")),
    mutant(
        "NaN passes",
        "matrix",
        IS_ALL,
        "return not any(relative_change(layer, change, W, X) >= tolerance for W, X in draws)",
    ),
    mutant("tolerance ignored", "matrix", IS_ALL, IS_ALL.replace("tolerance", "1e-9")),
    mutant("loose tolerance", "matrix", "tolerance=1e-9", "tolerance=1e-4"),
    mutant("exactly zero", "matrix", IS_ALL, IS_ALL.replace("< tolerance", "== 0")),
    mutant(
        "most of the draws",
        "matrix",
        IS_ALL,
        "found = [relative_change(layer, change, W, X) for W, X in draws]\n    return sorted(found)[len(found) // 2 - 1] < tolerance",
    ),
    mutant(
        "mean of the draws",
        "matrix",
        IS_ALL,
        "found = [relative_change(layer, change, W, X) for W, X in draws]\n    return sum(found) / len(found) < tolerance",
    ),
    mutant(
        "root mean square of the draws",
        "matrix",
        IS_ALL,
        "found = [relative_change(layer, change, W, X) for W, X in draws]\n    return bool(np.sqrt(np.mean(np.square(found))) < tolerance)",
    ),
    whole("matrix from the book", "matrix-code", BY_NAME),
    mutant(
        "turned over",
        "matrix",
        "title: is_invariant(layer, change, draws)",
        "title: not is_invariant(layer, change, draws)",
    ),
    mutant("bias after the norm", "bias", "norm(X @ W.T + b)", "norm(X @ W.T) + b"),
    mutant("bias left out", "bias", "norm(X @ W.T + b)", "norm(X @ W.T)"),
    mutant("norm left out", "bias", "norm(X @ W.T + b)", "X @ W.T + b"),
    mutant("mean of the bias", "bias", "norm(X @ W.T + b)", "norm(X @ W.T + b.mean())"),
    mutant(
        "bias scales with the weights", "bias", "norm(X @ W.T + b)", "norm(X @ W.T + b * W.norm())"
    ),
    mutant("loss without T", "gradient", "(T * layer(W, X)).sum()", "layer(W, X).sum()"),
    mutant(
        "mean in place of the sum",
        "gradient",
        "(T * layer(W, X)).sum()",
        "(T * layer(W, X)).mean()",
    ),
    mutant(
        "length of the gradient squared",
        "gradient",
        "gradient.norm().item()",
        "gradient.square().sum().item()",
    ),
    mutant(
        "gradient of the data",
        "gradient",
        GRADIENT,
        "X = X.clone().requires_grad_()\n    (gradient,) = torch.autograd.grad((T * layer(W, X)).sum(), X)",
    ),
    mutant(
        "gradients add up",
        "gradient",
        "W = W.detach().clone().requires_grad_()\n    " + GRADIENT,
        "W.requires_grad_()\n    (T * layer(W, X)).sum().backward()\n    gradient = W.grad",
    ),
    mutant(
        "switches requires_grad on",
        "gradient",
        "W = W.detach().clone().requires_grad_()",
        "W.requires_grad_()",
    ),
    mutant("unit weights", "gradient", "W.detach().clone()", "(W / W.norm()).detach().clone()"),
    mutant(
        "slope without logarithms",
        "gradient",
        FIT,
        "return float(np.polyfit(scales, lengths, 1)[0])",
    ),
    mutant(
        "slope of the two ends",
        "gradient",
        FIT,
        "x, y = np.log10(scales), np.log10(lengths)\n    return float((y[-1] - y[0]) / (x[-1] - x[0]))",
    ),
    mutant(
        "slope through the origin",
        "gradient",
        FIT,
        "x, y = np.log10(scales), np.log10(lengths)\n    return float((x * y).sum() / (x * x).sum())",
    ),
    mutant(
        "slope turned over",
        "gradient",
        FIT,
        FIT.replace("np.log10(scales), np.log10(lengths)", "np.log10(lengths), np.log10(scales)"),
    ),
]

LAYER_VAR_MEAN = """def layer_norm(z, gamma=None, beta=None, eps=1e-5):
    variance, mean = torch.var_mean(z, dim=-1, correction=0, keepdim=True)
    gamma = torch.ones(z.shape[-1], dtype=z.dtype) if gamma is None else gamma
    beta = torch.zeros(z.shape[-1], dtype=z.dtype) if beta is None else beta
    return gamma * ((z - mean) * torch.rsqrt(variance + eps)) + beta
"""
LAYER_EINSUM = """def layer_norm(z, gamma=None, beta=None, eps=1e-5):
    count = z.shape[-1]
    centering = torch.eye(count, dtype=z.dtype) - 1 / count
    centered = torch.einsum("...c,cd->...d", z, centering)
    if z.dtype == torch.float32:
        centered = torch.einsum("...c,cd->...d", z.double(), centering.double()).to(z.dtype)
    length = (torch.einsum("...c,...c->...", centered, centered) / count + eps) ** 0.5
    y = centered / length[..., None]
    y = y if gamma is None else torch.einsum("...c,c->...c", y, gamma)
    return y if beta is None else y + beta
"""
LAYER_WIDE = """def layer_norm(z, gamma=None, beta=None, eps=1e-5):
    wide = z.double()
    y = (wide - wide.mean(-1, keepdim=True)) / torch.sqrt(
        wide.var(-1, unbiased=False, keepdim=True) + eps
    )
    if gamma is not None:
        y = y * gamma.double()
    if beta is not None:
        y = y + beta.double()
    return y.to(z.dtype)
"""
LAYER_WELFORD = """def layer_norm(z, gamma=None, beta=None, eps=1e-5):
    mean, squares = torch.zeros_like(z[..., 0]), torch.zeros_like(z[..., 0])
    for count, value in enumerate(z.unbind(-1), start=1):
        apart = value - mean
        mean = mean + apart / count
        squares = squares + apart * (value - mean)
    std = (squares / z.shape[-1] + eps).sqrt()
    y = (z - mean[..., None]) / std[..., None]
    y = y if gamma is None else y * gamma
    return y if beta is None else y + beta
"""
WEIGHT_LOOP = """def weight_norm(g, v):
    rows = []
    for length, row in zip(g, v, strict=True):
        size = row.norm()
        rows.append(length * row / size if size > 0 else length * row)
    return torch.stack(rows)
"""
WEIGHT_DIAGONAL = """def weight_norm(g, v):
    length = torch.einsum("oi,oi->o", v, v)
    length = torch.where(length == 0, torch.ones_like(length), length).sqrt()
    return torch.diag(g / length) @ v
"""
WEIGHT_CLAMP = """def weight_norm(g, v):
    largest = v.abs().amax(1, keepdim=True).clamp(min=torch.finfo(v.dtype).tiny).detach()
    v = v / largest
    return g.reshape(-1, 1) * (v / v.norm(dim=1, keepdim=True).clamp(min=0.5))
"""
COSINE_OUTER = """def cosine_norm(x, w, eps=1e-8):
    a = torch.maximum(x.norm(dim=-1), torch.tensor(eps, dtype=x.dtype))
    b = torch.maximum(w.norm(dim=-1), torch.tensor(eps, dtype=x.dtype))
    return torch.einsum("ni,oi->no", x, w) / torch.outer(a, b)
"""
COSINE_BROADCAST = """def cosine_norm(x, w, eps=1e-8):
    squared = (x.square().sum(1), w.square().sum(1))
    a, b = (s.clamp(min=eps**2).sqrt() for s in squared)
    product = (x[:, None, :] * w[None, :, :]).sum(-1)
    return product / a[:, None] / b[None, :]
"""
CHANGE_NUMPY = """def relative_change(layer, change, W, X):
    W_new, X_new = change(W.clone(), X.clone())
    with torch.no_grad():
        old, new = layer(W, X).numpy(), layer(W_new, X_new).numpy()
    return float(np.sqrt(((new - old) ** 2).sum()) / np.sqrt((old**2).sum()))
"""
CHANGE_FLOAT64 = """def relative_change(layer, change, W, X):
    old, new = layer(W, X).numpy(), layer(*change(W, X)).numpy()
    return np.linalg.norm(new - old) / np.linalg.norm(old)
"""
MATRIX_LOOPS = """def is_invariant(layer, change, draws, tolerance=1e-9):
    for W, X in draws:
        share = relative_change(layer, change, W, X)
        if not share < tolerance:
            return False
    return True


def invariance_matrix(layers, changes, draws):
    matrix = {}
    for name in layers:
        matrix[name] = {}
        for title in changes:
            matrix[name][title] = bool(is_invariant(layers[name], changes[title], draws))
    return matrix
"""
BIAS_DEF = """def with_bias(norm, b):
    def layer(W, X):
        return norm(torch.nn.functional.linear(X, W, b))

    return layer
"""
GRADIENT_BACKWARD = """def gradient_length(layer, W, X, T):
    leaf = torch.nn.Parameter(W.detach().clone())
    with torch.enable_grad():
        torch.einsum("no,no->", T, layer(leaf, X)).backward()
    return float(leaf.grad.square().sum().sqrt())


def slope(scales, lengths):
    x, y = torch.tensor([scales, lengths], dtype=torch.float64).log()
    x, y = x - x.mean(), y - y.mean()
    return float((x * y).sum() / (x * x).sum())
"""
GRADIENT_FLOAT64 = """def gradient_length(layer, W, X, T):
    W = W.detach().clone().requires_grad_()
    (gradient,) = torch.autograd.grad((T * layer(W, X)).sum(), W)
    return np.linalg.norm(gradient.numpy())


def slope(scales, lengths):
    return np.polyfit(np.log(scales), np.log(lengths), 1)[0]
"""
PREDICTION_DICT = """def my_prediction():
    rows = {"batch": 0b11101011, "layer": 0b11111101, "weight": 0b11100000, "cosine": 0b11101100}
    places = dict(zip(selfcheck.CHANGES, range(7, -1, -1), strict=True))
    return {
        name: {title: row >> place & 1 for title, place in places.items()}
        for name, row in rows.items()
    }
"""
SEAL_COMPUTED = """def my_seal():
    return " " + selfcheck.seal(my_prediction()).upper()
"""

EQUIVALENTS = [
    whole("layer norm by var_mean and rsqrt", "layer-norm-code", LAYER_VAR_MEAN),
    whole("layer norm by a centring matrix and einsum", "layer-norm-code", LAYER_EINSUM),
    whole("layer norm in float64 inside", "layer-norm-code", LAYER_WIDE),
    whole("layer norm by Welford", "layer-norm-code", LAYER_WELFORD),
    whole("weight norm row by row", "weight-norm-code", WEIGHT_LOOP),
    whole("weight norm by a diagonal matrix", "weight-norm-code", WEIGHT_DIAGONAL),
    whole("weight norm, largest entry first", "weight-norm-code", WEIGHT_CLAMP),
    whole("cosine norm by an outer product", "cosine-norm-code", COSINE_OUTER),
    whole("cosine norm by broadcasting", "cosine-norm-code", COSINE_BROADCAST),
    whole("relative change in NumPy", "change-code", CHANGE_NUMPY),
    whole("relative change, a float64 of NumPy", "change-code", CHANGE_FLOAT64),
    whole("the matrix in loops", "matrix-code", MATRIX_LOOPS),
    whole("the bias by torch's linear", "bias-code", BIAS_DEF),
    whole("backward, and least squares by hand", "gradient-code", GRADIENT_BACKWARD),
    whole("lengths and slopes, float64 of NumPy", "gradient-code", GRADIENT_FLOAT64),
    whole("the prediction as a dictionary of zeros and ones", "prediction-code", PREDICTION_DICT),
    whole("the seal computed", "seal-code", SEAL_COMPUTED, task="prediction"),
]
