"""What is asked of assignment 3: raw numbers only. All inputs are literals."""

import torch
from torch import nn

from grader.ask import asks

# --- Algorithm 1 -------------------------------------------------------------------------------

TABLE = [  # four examples of three units
    [0.31, -1.27, 2.06],
    [-0.84, 0.55, 0.13],
    [1.92, -0.48, -0.71],
    [0.07, 1.66, -2.33],
]
U_MU, U_SIGMA = [0.07, 0.91, 0.38], [0.83, 0.11, 0.64]
U_M = [[0.12, 0.97, 0.45], [0.71, 0.03, 0.88], [0.34, 0.59, 0.21], [0.66, 0.28, 0.05]]
E_S = [[0.8, -1.1, 0.3], [-0.6, 1.9, -0.2], [1.4, 0.5, -1.7], [-0.9, 0.1, 2.2]]
GAMMA, BETA = [1.7, -0.6, 0.4], [0.2, -1.3, 3.1]
CONSTANTS = {"n_mu": 1.3, "n_sigma": 2.7, "r_mu": 0.35, "r_sigma": 0.6}
STILL = {"n_mu": 0.0, "n_sigma": 1.0, "r_mu": 0.0, "r_sigma": 0.0}
WEIGHTS = [[0.9, -0.4, 0.2], [-1.1, 0.7, 1.5], [0.3, 0.6, -0.8], [0.5, -1.9, 0.1]]


def wave(shape, a, b):
    """Numbers between 0 and 1 without a generator."""
    at = torch.arange(torch.Size(shape).numel(), dtype=torch.float64)
    return (0.5 + 0.5 * torch.sin(a * at + b)).reshape(shape)


def table(dtype=torch.float64):
    """The table and its four draws."""
    parts = (TABLE, U_MU, U_SIGMA, U_M, E_S)
    return [torch.tensor(part, dtype=dtype) for part in parts]


def images(shape=(2, 3, 4, 3)):
    """Images of three channels, as wide as they have channels, and their four draws."""
    values = 3 * wave(shape, 1.7, 0.3) - 1
    uniform = wave((3,), 2.1, 0.5), wave((3,), 0.9, 1.1), wave(shape, 2.9, 0.2)
    return [values, *uniform, 4 * wave(shape, 1.3, 0.9) - 2]


def norm_inputs(dtype=torch.float64):
    """The table, gamma, beta and the draws, as arguments of ``noisy_batch_norm``."""
    z, *draws = table(dtype)
    return z, torch.tensor(GAMMA, dtype=dtype), torch.tensor(BETA, dtype=dtype), tuple(draws)


class Source:
    """Counts up, so that every number it gives is new; ``sign`` tells two sources apart."""

    def __init__(self, sign):
        self.sign, self.given = sign, 0

    def __call__(self, *size, **_):
        shape = size[0] if len(size) == 1 and hasattr(size[0], "__len__") else size
        count = torch.Size(shape).numel()
        numbers = torch.arange(self.given + 1, self.given + 1 + count, dtype=torch.float64)
        self.given += count
        return self.sign * numbers.reshape(tuple(shape)) / 1024


@asks("draw")
def sources(student):
    """which numbers come from which source, for a table"""
    return list(student["draw"]((5, 3), Source(1), Source(-1)))


@asks("draw")
def image_draws(student):
    """the shapes of the draws for images"""
    return list(student["draw"]((2, 3, 4, 5), Source(1), Source(-1)))


@asks("draw")
def second_step(student):
    """the draws of two steps"""
    rand, randn = Source(1), Source(-1)
    return [list(student["draw"]((4, 2), rand, randn)) for _ in range(2)]


@asks("disturb")
def unit_noise(student):
    """the noise of the units alone"""
    return student["disturb"](*table(), n_mu=1.3, n_sigma=2.7, r_mu=0.0, r_sigma=0.0)


@asks("disturb")
def value_noise(student):
    """the noise of the values alone"""
    return student["disturb"](*table(), n_mu=0.0, n_sigma=1.0, r_mu=0.35, r_sigma=0.6)


@asks("disturb")
def papers_constants(student):
    """all of it, with the constants of the paper"""
    return student["disturb"](*table())


@asks("disturb")
def pixels(student):
    """images, in which every pixel has its own noise"""
    return student["disturb"](*images(), **CONSTANTS)


@asks("disturb")
def single(student):
    """float32 values stay float32"""
    return student["disturb"](*table(torch.float32), **CONSTANTS)


@asks("disturb")
def inputs_stay(student):
    """the inputs after the call, beside the result"""
    given = table()
    out = student["disturb"](*given, **CONSTANTS)
    return {"out": out, "given": given}


@asks("noisy-batch-norm")
def norm_alone(student):
    """the norm alone, values with variances as small as eps"""
    z, gamma, beta, draws = norm_inputs()
    return student["noisy_batch_norm"](0.1 * z + 2, gamma, beta, draws, eps=0.01, **STILL)


@asks("noisy-batch-norm")
def norm_and_noise(student):
    """the noise behind the norm"""
    return student["noisy_batch_norm"](*norm_inputs(), **CONSTANTS)


@asks("noisy-batch-norm")
def norm_of_images(student):
    """images"""
    values, *draws = images()
    gamma, beta = (torch.tensor(part, dtype=torch.float64) for part in (GAMMA, BETA))
    return student["noisy_batch_norm"](values, gamma, beta, tuple(draws))


@asks("noisy-batch-norm")
def norm_gradients(student):
    """the gradients of z, gamma and beta"""
    z, gamma, beta, draws = norm_inputs()
    moved = [part.requires_grad_() for part in (z, gamma, beta)]
    out = student["noisy_batch_norm"](z, gamma, beta, draws, eps=0.01, **CONSTANTS)
    weights = torch.tensor(WEIGHTS, dtype=torch.float64)
    return list(torch.autograd.grad((out * weights).sum(), moved))


# --- the line probe ----------------------------------------------------------------------------

CURVATURE = [0.5, 1.5, 4.0, 9.0]
POINT = [3.1, -0.7, 1.3, 0.2]
SIZES = [0.3, 0.05, 0.1]
X = [[0.4, -1.1, 0.9], [1.7, 0.2, -0.6], [-0.8, 1.3, 0.5], [0.1, -0.3, -1.9], [-1.2, 0.8, 1.1]]
Y = [0, 2, 1, 1, 2]
FIRST = [[0.61, -0.37, 0.83], [-0.92, 0.14, 0.45], [0.29, 0.77, -0.53], [0.33, -0.68, -0.21]]
FIRST_BIAS = [0.11, -0.23, 0.07, 0.31]
SCALE, SHIFT = [1.37, 0.71, -0.93, 1.13], [0.17, -0.29, 0.41, 0.03]
LAST = [[0.73, -0.41, 0.19, 0.57], [-0.67, 0.89, 0.37, -0.13], [0.47, 0.59, -0.79, 0.23]]
LAST_BIAS = [0.05, -0.15, 0.27]
RUNNING_MEAN, RUNNING_VAR = [0.13, -0.27, 0.33, 0.07], [0.81, 1.19, 0.67, 1.43]
NET_SIZES = [0.7, 0.1, 2.3, 0.4]
FAR = [11.0, 0.1, 23.0, 7.0]  # so far that walking back does not round to where it began


class Valley(nn.Module):
    """Half the sum of x w²."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(POINT, dtype=torch.float64))

    def forward(self, x):
        return 0.5 * (x * self.w**2).sum()


class Running(nn.Module):
    """A batch norm with running averages that move in training mode, as torch's do: in place."""

    def __init__(self, dtype):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(SCALE, dtype=dtype))
        self.bias = nn.Parameter(torch.tensor(SHIFT, dtype=dtype))
        self.register_buffer("running_mean", torch.tensor(RUNNING_MEAN, dtype=dtype))
        self.register_buffer("running_var", torch.tensor(RUNNING_VAR, dtype=dtype))
        self.register_buffer("seen", torch.tensor(17))

    def forward(self, z):
        mean, var = self.running_mean, self.running_var
        if self.training:
            mean, var = z.mean(0), z.var(0, correction=0)
            with torch.no_grad():
                self.running_mean.mul_(0.9).add_(0.1 * mean)
                self.running_var.mul_(0.9).add_(0.1 * var)
                self.seen.add_(1)
        return self.weight * (z - mean) / (var + 1e-5).sqrt() + self.bias


def small_net(dtype=torch.float64):
    """Linear, batch norm, tanh, linear, with stored weights."""
    net = nn.Sequential(nn.Linear(3, 4), Running(dtype), nn.Tanh(), nn.Linear(4, 3)).to(dtype)
    stored = (FIRST, FIRST_BIAS, SCALE, SHIFT, LAST, LAST_BIAS)
    with torch.no_grad():
        for parameter, values in zip(net.parameters(), stored, strict=True):
            parameter.copy_(torch.tensor(values, dtype=dtype))
    return net


def batch(dtype=torch.float64):
    """The five examples and their labels."""
    return torch.tensor(X, dtype=dtype), torch.tensor(Y)


def value(outputs, _):
    """The loss of the valley: what it returns."""
    return outputs


def numbers(values):
    """A list of numbers or scalar tensors as one tensor; a tensor stays what it is."""
    if isinstance(values, list | tuple):
        parts = [torch.as_tensor(part, dtype=torch.float64).detach() for part in values]
        return torch.stack([part.reshape(()) for part in parts])
    if isinstance(values, float | int):
        return torch.tensor(values, dtype=torch.float64)
    return torch.as_tensor(values).detach()


def on_valley(student):
    """Walk on the quadratic."""
    x = torch.tensor(CURVATURE, dtype=torch.float64)
    return student["line_probe"](Valley(), x, None, SIZES, value)


def on_net(student):
    """Walk on the small network, in training mode."""
    return student["line_probe"](small_net().train(), *batch(), NET_SIZES)


@asks("line-probe")
def valley_losses(student):
    """a quadratic: the losses"""
    return numbers(on_valley(student)["losses"])


@asks("line-probe")
def valley_changes(student):
    """a quadratic: the changes of the gradient"""
    return numbers(on_valley(student)["changes"])


@asks("line-probe")
def valley_smoothness(student):
    """a quadratic: the effective smoothness"""
    return numbers(on_valley(student)["smoothness"])


@asks("line-probe")
def net_losses(student):
    """a small network: the losses"""
    return numbers(on_net(student)["losses"])


@asks("line-probe")
def net_changes(student):
    """a small network: the changes of the gradient"""
    return numbers(on_net(student)["changes"])


@asks("line-probe")
def net_smoothness(student):
    """a small network: the effective smoothness"""
    return numbers(on_net(student)["smoothness"])


@asks("line-probe")
def net_in_evaluation(student):
    """a network in evaluation mode: the losses, and the mode afterwards"""
    net = small_net().eval()
    line = student["line_probe"](net, *batch(), NET_SIZES)
    return {"losses": numbers(line["losses"]), "modes": [int(m.training) for m in net.modules()]}


@asks("line-probe")
def weights_after(student):
    """the weights afterwards, bit by bit"""
    net = small_net(torch.float32).train()
    held = list(net.parameters())
    line = student["line_probe"](net, *batch(torch.float32), FAR)
    after = [part.detach().clone() for part in net.parameters()]
    held = [part.detach().clone() for part in held]
    return {"losses": numbers(line["losses"]), "after": after, "held": held}


@asks("line-probe")
def buffers_after(student):
    """the buffers and the mode afterwards"""
    net = small_net(torch.float32).train()
    line = student["line_probe"](net, *batch(torch.float32), NET_SIZES)
    buffers = [part.clone() for part in net.buffers()]
    modes = [int(module.training) for module in net.modules()]
    return {"losses": numbers(line["losses"]), "buffers": buffers, "modes": modes}


@asks("line-probe")
def grad_after(student):
    """what stands in .grad afterwards"""
    net = small_net().train()
    for parameter in net.parameters():
        parameter.grad = torch.full_like(parameter, 0.25)
    line = student["line_probe"](net, *batch(), NET_SIZES)
    grads = [parameter.grad for parameter in net.parameters()]
    return {"losses": numbers(line["losses"]), "grads": grads}


# --- Theorem 4.1 -------------------------------------------------------------------------------

Z = {
    3: [0.4, -1.9, 2.6],
    4: [5.0, 11.0, 13.0, 19.0],
    7: [0.9, -0.2, 3.4, 1.1, -2.8, 0.3, 0.6],
    12: [0.3, 1.9, -0.7, 2.2, 0.1, -1.4, 0.8, 0.5, -2.6, 1.2, 3.3, -0.9],
}
G = {
    3: [1.2, 0.7, -0.4],
    4: [10.0, 0.0, 0.0, 0.0],
    7: [0.8, -0.5, 1.9, 0.2, -1.1, 0.6, 0.4],
    12: [0.7, 1.1, -0.2, 1.6, 0.4, -0.9, -0.3, 0.8, -1.2, 0.5, 1.4, 0.1],
}
ZERO_SUM = [1.0, -1.0, 2.0, -2.0]
LEFTS = {3: 0.7, 4: -2.5, 7: 5.0, 12: 0.0}
GAMMAS = {3: 1.3, 4: 1.0, 7: -0.8, 12: 2.5}


def vector(values):
    """A float64 tensor."""
    return torch.tensor(values, dtype=torch.float64)


@asks("theorem-sides")
def right_printed(student):
    """the right side as printed"""
    return [student["printed_right_side"](vector(G[m]), vector(Z[m]), GAMMAS[m]) for m in Z]


@asks("theorem-sides")
def right_spread(student):
    """the right side as printed, a tiny and a large spread of z"""
    g, z = vector(G[7]), vector(Z[7])
    return [student["printed_right_side"](g, spread * z + 5, -1.6) for spread in (0.01, 40.0)]


def needed(student, m, left, spread=1.0):
    """The four factors for a left side that is made up."""
    gamma = GAMMAS[m]
    return student["needed_factors"](vector(left), vector(G[m]), spread * vector(Z[m]), gamma)


@asks("theorem-needed")
def needed_front(student):
    """the factor in front, for left sides that are made up"""
    return [needed(student, m, left)[0] for m, left in LEFTS.items()]


@asks("theorem-needed")
def needed_inside(student):
    """the factors in the bracket, for left sides that are made up"""
    return [needed(student, m, left)[1:] for m, left in LEFTS.items()]


@asks("theorem-needed")
def needed_wide(student):
    """the factors in the bracket, for values with a small and a large spread"""
    return [needed(student, 12, 2.0 / spread**2, spread)[1:] for spread in (0.01, 40.0)]


@asks("theorem-needed")
def needed_zero(student):
    """the factors in the bracket, for a gradient whose sum is 0"""
    return student["needed_factors"](vector(2.0), vector(ZERO_SUM), vector(Z[4]), 1.7)[1:]


@asks("theorem-mended")
def mended_sizes(student):
    """the mended right side, 3, 4, 7 and 12 examples"""
    return [student["theorem_41"](vector(G[m]), vector(Z[m]), GAMMAS[m]) for m in Z]


@asks("theorem-mended")
def mended_spread(student):
    """the mended right side, a tiny and a large spread of z"""
    g, z = vector(G[12]), vector(Z[12])
    return [student["theorem_41"](g, spread * z + 5, 0.7) for spread in (0.01, 40.0)]


@asks("theorem-mended")
def letter(student):
    """the letter of the factor"""
    return student["wrong_factor"]
