"""One script a question, each beside its peers: `python -m benchmarks.throughput` from the checkout root.

Every script is built on `benchmarks.harness` and takes the same options (`--help` lists them):

    python -m benchmarks.throughput --rounds 7 --json /tmp/throughput.json
    python -m benchmarks.throughput --peers ThreadPoolExecutor,MecaExecutor --tasks 5000

Figures worth keeping go to `RESULTS.md`, with the machine and the commit that the script prints.
"""
