"""What no model can exceed on the test tasks of 1-D RBF: hyperparameters integrated out by importance sampling.

    OMP_NUM_THREADS=1 python results/moment/bayes.py

Prints means over the 3,008 test tasks, paired with the exact GP that knows the hyperparameters; three minutes.
"""

import torch

import npexp


def main() -> None:
    """Prints the ceilings."""
    torch.set_num_threads(1)
    found = npexp.build_data("gp_rbf").bayes_oracle("test", num_batches=188, num_draws=512, num_scrambles=2)
    for name, value in found._asdict().items():
        print(f"{name}: {value}")


if __name__ == "__main__":
    main()
