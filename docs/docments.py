"""What functions say beside their arguments (`size: int,  # pixels`) as a table of parameters in the reference."""

import ast
import io
import tokenize
from textwrap import dedent

from griffe import Extension, Function, Inspector, ObjectNode, Visitor


def argument_comments(source: str) -> dict[str, str]:
    """Argument -> the comment on its lines, `return` -> that beside the result, for a function as it is written."""
    node = ast.parse(dedent(source)).body[0]
    starts = {
        a.lineno: a.arg
        for a in (*node.args.posonlyargs, *node.args.args, node.args.vararg, *node.args.kwonlyargs, node.args.kwarg)
        if a
    }
    if node.returns:
        starts[node.returns.lineno] = "return"
    last = node.returns.end_lineno if node.returns else node.body[0].lineno - 1
    comments: dict[str, str] = {}
    for token in tokenize.generate_tokens(io.StringIO(dedent(source)).readline):
        if token.start[0] > last:
            break
        before = [line for line in starts if line <= token.start[0]]
        if token.type == tokenize.COMMENT and before:
            name, text = starts[max(before)], token.string.lstrip("# ")
            comments[name] = f"{comments[name]} {text}" if name in comments else text
    return comments


class Docments(Extension):
    """Appends the comments to a function's docstring, in the form that griffe reads."""

    def on_function_instance(
        self, *, node: ast.AST | ObjectNode, func: Function, agent: Visitor | Inspector, **kwargs: object
    ) -> None:
        """Called by griffe for every function it has read."""
        if not func.docstring or not isinstance(node, ast.FunctionDef):
            return
        said = argument_comments(ast.get_source_segment(agent.code, node))
        lines = [f"    {name}: {text}" for name, text in said.items() if name != "return"]
        parameters = "\n\nParameters:\n" + "\n".join(lines) if lines else ""
        returns = f"\n\nReturns:\n    {said['return']}" if "return" in said else ""
        func.docstring.value += parameters + returns
