"""Offload two greetings to the sampleserver container and print the replies."""

from argparse import ArgumentParser

from meca_executor import Container, MecaExecutor

parser = ArgumentParser(description=__doc__)
parser.add_argument("--endpoint", help="URL of a gateway, or 'desktop'; default: $MECA_ENDPOINT, else one of its own")
parser.add_argument("--image", default="sampleserver:latest", help="container to offload to (default: %(default)s)")
args = parser.parse_args()

greet = Container(args.image, resource={"cpu": 1, "memory": 256})
with MecaExecutor(args.endpoint) as ex:
    for reply in ex.map(greet, [{"name": f"meca dev {number}"} for number in range(2)]):
        print(reply["message"])
