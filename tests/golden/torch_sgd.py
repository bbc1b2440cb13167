"""Steps of torch's SGD with dampening, for `make_golden.py`."""
import numpy as np
import torch


def content():
    """Return weights after each step of seeded gradients, with the numbers that made them."""
    rng = np.random.RandomState(51)
    facts = {
        "momentum": 0.9, "dampening": 0.9, "weight_decay": 0.01, "rates": [0.1, 0.1, 0.1, 0.01, 0.01, 0.01],
        "start": rng.standard_normal((2, 3)).astype(np.float32).tolist(),
        "gradients": rng.standard_normal((6, 2, 3)).astype(np.float32).tolist(), "weights": [],
    }  # fmt: skip
    weight = torch.nn.Parameter(torch.tensor(facts["start"]))
    names = ("momentum", "dampening", "weight_decay")
    sgd = torch.optim.SGD([weight], 1.0, **{name: facts[name] for name in names})
    for rate, gradient in zip(facts["rates"], facts["gradients"]):
        sgd.param_groups[0]["lr"] = rate
        weight.grad = torch.tensor(gradient)
        sgd.step()
        facts["weights"].append(weight.tolist())
    return facts
