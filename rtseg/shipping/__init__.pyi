"""A trained network on its way out: checks, quantisation, the fastest faithful form, its card, its server, benches."""

from .outcomes import Tuned as Tuned
from .autotuning import autotune as autotune
from .autotuning import ship as ship
from .bench import BenchRecord as BenchRecord
from .bench import bench_cases as bench_cases
from .bench import compare_bench as compare_bench
from .bench import run_bench as run_bench
from .candidates import Candidate as Candidate
from .candidates import list_candidates as list_candidates
from .cards import Card as Card
from .cards import load_card as load_card
from .cards import write_shipped as write_shipped
from .checking import RuntimeCheck as RuntimeCheck
from .checking import check_runtime as check_runtime
from .faithful import FormScore as FormScore
from .faithful import evaluate_form as evaluate_form
from .plain import ship_plain as ship_plain
from .quantization import quantize as quantize
