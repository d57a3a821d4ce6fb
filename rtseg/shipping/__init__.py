"""A trained network on its way out: checks, quantisation, the fastest faithful form, its card, its server, benches."""

from rtseg.shipping.autotuning import Tuned, autotune, ship
from rtseg.shipping.bench import BenchRecord, bench_cases, compare_bench, run_bench
from rtseg.shipping.candidates import Candidate, list_candidates
from rtseg.shipping.cards import Card, load_card, write_shipped
from rtseg.shipping.checking import RuntimeCheck, check_runtime
from rtseg.shipping.faithful import FormScore, evaluate_form
from rtseg.shipping.quantization import quantize

__all__ = ["BenchRecord", "Candidate", "Card", "FormScore", "RuntimeCheck", "Tuned", "autotune", "bench_cases", "check_runtime", "compare_bench", "evaluate_form", "list_candidates", "load_card", "quantize", "run_bench", "ship", "write_shipped"]
