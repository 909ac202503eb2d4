from tests.typecheck import check as check  # for --jaxtyping-packages, which imports no further
