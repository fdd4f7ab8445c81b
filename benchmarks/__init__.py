"""One script a question, each beside its peers, from the checkout root: `pip install -e .[peers]`, then

    python -m benchmarks --json results --plot results       # all of them; --quick for a look
    python -m benchmarks.throughput --rounds 7 --json throughput.json
    python -m benchmarks.latency --peers ProcessPoolExecutor,MecaExecutor --tasks 500

| script | question |
|---|---|
| throughput | how many calls a second, by `submit` and by `map` |
| latency | how long one call takes when nothing else is under way |
| payload | how fast large arrays travel, and one array to many tasks |
| scaling | what a task costs among many, in time and memory, and how near tasks of real length come to the ideal |
| startup | import, construct to first result, shutdown |
| containers | a container call over a bare HTTP POST |
| cluster | calls on a Dask cluster over Dask's own client |
| old_dialect | tasks on a MECAnywhere desktop app (needs Node.js) |

Every script is built on `benchmarks.harness` and takes the same options (`--help` lists them). Figures worth keeping
go to `RESULTS.md`, with the machine and the commit that the script prints.
"""
