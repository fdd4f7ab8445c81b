"""The program that `test_main_module.py` runs in every way in which Python is started.

Only its text is used. Each `check_*` function is one behaviour; the program prints its name and outcome.
"""

PROGRAM = r"""
import abc, collections, dataclasses, enum, functools, os, sys, traceback
from typing import NamedTuple
from meca_executor import MecaExecutor, TaskFailed

with open(os.environ["TOP_LEVEL_RUNS"], "a") as file:
    file.write("run\n")

LIMIT = 20
factor = 2
table = {"a": 1}
connection = None

def double(x):
    return factor * x

def use_table(key):
    return table[key], triple(1)

def triple(x):
    return 3 * x

def factorial(n):
    return 1 if n < 2 else n * factorial(n - 1)

def ping(n):
    return n if n <= 0 else pong(n - 1)

def pong(n):
    return n if n <= 0 else ping(n - 1)

def keep(value, seen=[]):
    seen.append(value)
    return seen

def traced(function):
    @functools.wraps(function)
    def wrapper(*args):
        return ["traced", function(*args)]
    return wrapper

@traced
def decorated(x):
    return x

class Error(Exception):
    def __init__(self, code, text):
        super().__init__(code, text)
        self.code = code

class BadError(Exception):
    def __init__(self, *, text):
        super().__init__(text)

def stumble(cls, *args, **kwargs):
    raise cls(*args, **kwargs)

class Account:
    bank = "main"
    def __init__(self, owner, amount=0):
        self.owner, self.amount = owner, amount
    def __eq__(self, other):
        return isinstance(other, Account) and vars(self) == vars(other)
    __hash__ = None
    def add(self, amount):
        return Account(self.owner, self.amount + amount)
    @classmethod
    def open(cls, owner):
        return cls(owner, 1)

class Savings(Account):
    def add(self, amount):
        return super().add(2 * amount)

@dataclasses.dataclass
class Pair:
    left: int
    right: "list[int]" = dataclasses.field(default_factory=list)

class Colour(enum.Enum):
    RED = 1

class Place(NamedTuple):
    x: int
    y: int

class Shape(abc.ABC):
    @abc.abstractmethod
    def area(self): ...

class Square(Shape):
    def area(self):
        return 4

def describe(obj):
    return type(obj).__name__, isinstance(obj, Account)

def prepare(value):
    global connection, handle
    connection = handle = value

def get_handle():
    return handle

def get_connection():
    return connection

def check_functions(ex):
    assert ex.submit(double, 4).result(LIMIT) == 8
    assert list(ex.map(double, range(5), timeout=LIMIT)) == [0, 2, 4, 6, 8]
    assert ex.submit(lambda x: double(x) + 1, 4).result(LIMIT) == 9
    assert ex.submit(functools.partial(double, 5)).result(LIMIT) == 10
    assert ex.submit(decorated, 5).result(LIMIT) == ["traced", 5]
    assert ex.submit(decorated.__wrapped__, 5).result(LIMIT) == 5

def check_functions_as_arguments(ex):
    assert list(ex.submit(list, map(double, [1, 2])).result(LIMIT)) == [2, 4]
    assert ex.submit(functools.reduce, lambda a, b: a * b, [1, 2, 3, 4]).result(LIMIT) == 24
    assert sorted(ex.submit(sorted, [3, 1, 2], key=lambda x: -x).result(LIMIT)) == [1, 2, 3]
    assert ex.submit(max, [{"f": 1}, {"f": 2}], key=lambda d: d["f"]).result(LIMIT) == {"f": 2}
    assert ex.submit(functools.partial(map, triple), [1]).exception(LIMIT) is None

def check_functions_as_results(ex):
    back = ex.submit(lambda: double).result(LIMIT)
    assert back(5) == 10
    assert ex.submit(lambda: [triple, Account]).result(LIMIT)[1] is Account

def check_recursion(ex):
    assert ex.submit(factorial, 10).result(LIMIT) == 3628800
    assert ex.submit(ping, 7).result(LIMIT) == 0

def check_globals_at_each_submit(ex):
    global factor
    for factor in (3, 4, 5):
        assert ex.submit(double, 1).result(LIMIT) == factor
    factor = 2
    for n in range(3):
        table["a"] = n
        assert ex.submit(use_table, "a").result(LIMIT) == (n, 3)

def check_redefined_functions(ex):
    global triple
    before = triple
    exec("def triple(x):\n    return 'redefined'", globals())
    try:
        assert ex.submit(triple, 1).result(LIMIT) == "redefined"
        assert ex.submit(use_table, "a").result(LIMIT)[1] == "redefined"
    finally:
        triple = before
    assert ex.submit(triple, 1).result(LIMIT) == 3

def check_defaults_start_anew(ex):
    assert [ex.submit(keep, n).result(LIMIT) for n in range(5)] == [[n] for n in range(5)]

def check_instances(ex):
    for account in (Account("ann", 5), Savings("bob", 5)):
        back = ex.submit(account.add, 10).result(LIMIT)
        assert type(back) is Account and back == account.add(10), back
        assert ex.submit(describe, account).result(LIMIT) == (type(account).__name__, True)
        again = ex.submit(lambda *args: list(args), account, {"deep": [account]}).result(LIMIT)
        assert type(again[0]) is type(account) and again[1]["deep"][0] is again[0]
    assert type(ex.submit(Account.open, "cid").result(LIMIT)) is Account
    assert type(ex.submit(Savings, "cid").result(LIMIT)) is Savings
    assert isinstance(ex.submit(Savings.open, "cid").result(LIMIT), Savings)

def check_instances_through_importable_functions(ex):
    account = Account("ann", 5)
    assert ex.submit(getattr, account, "owner").result(LIMIT) == "ann"
    back = ex.submit(dict, a=account, b=[Pair(1)]).result(LIMIT)
    assert type(back["a"]) is Account and type(back["b"][0]) is Pair
    assert ex.submit(sorted, [Pair(2), Pair(1)], key=lambda p: p.left).result(LIMIT) == [Pair(1), Pair(2)]
    assert ex.submit(collections.OrderedDict, [(Colour.RED, Place(1, 2))]).result(LIMIT) == {Colour.RED: Place(1, 2)}

def check_other_types(ex):
    pair = ex.submit(lambda: Pair(1, [2])).result(LIMIT)
    assert type(pair) is Pair and pair == Pair(1, [2])
    assert ex.submit(lambda: Colour.RED).result(LIMIT) is Colour.RED
    assert ex.submit(lambda c: c is Colour.RED, Colour.RED).result(LIMIT)
    assert type(ex.submit(lambda: Place(1, 2)).result(LIMIT)) is Place
    square = ex.submit(Square).result(LIMIT)
    assert isinstance(square, Shape) and ex.submit(square.area).result(LIMIT) == 4
    assert ex.submit(isinstance, square, Shape).result(LIMIT)

def check_class_attributes_at_each_submit(ex):
    for name in ("one", "two", "three"):
        Account.bank = name
        assert ex.submit(lambda a: a.bank, Account("ann")).result(LIMIT) == name
        assert Account.bank == name
    Account.bank = "main"

def check_exceptions(ex):
    try:
        ex.submit(stumble, Error, 7, "seven").result(LIMIT)
    except Error as error:
        assert error.code == 7 and "in stumble" in error.__cause__.tb, error.__cause__
    else:
        raise AssertionError("nothing raised")
    error = ex.submit(stumble, BadError, text="full text").exception(LIMIT)
    assert type(error) is TaskFailed and "BadError" in str(error) and "full text" in str(error), error

def check_initializer(ex):
    with MecaExecutor(max_workers=1, initializer=prepare, initargs=("opened",)) as other:
        assert other.submit(get_handle).result(LIMIT) == "opened"
        assert other.submit(lambda: handle).result(LIMIT) == "opened"
        assert list(other.map(lambda _: get_handle(), range(3))) == ["opened"] * 3
        # Bound here as well, to None: what the initializer made of it is what counts in its worker.
        assert other.submit(get_connection).result(LIMIT) == "opened"
    assert connection is None

def check_main_is_not_run_by_workers(ex):
    list(ex.map(double, range(20)))
    with open(os.environ["TOP_LEVEL_RUNS"]) as file:
        assert file.read() == "run\n"

def check_name(ex):
    assert ex.submit(lambda: __name__).result(LIMIT) == "__main__"
    assert double.__module__ == "__main__" == ex.submit(lambda f: f.__module__, double).result(LIMIT)

def main():
    with MecaExecutor(max_workers=2) as ex:
        for name, check in [item for item in globals().items() if item[0].startswith("check_")]:
            try:
                check(ex)
            except BaseException:
                print("@@", name, "failed\n" + traceback.format_exc(), flush=True)
            else:
                print("@@", name, "ok", flush=True)
"""

GUARDED = PROGRAM + "\nif __name__ == '__main__':\n    main()\n"
UNGUARDED = PROGRAM + "\nmain()\n"
