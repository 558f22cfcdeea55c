"""Answers to be graded: by gold, one of each kind that the rules tell apart."""

SENTENCES = {
    "18": [
        "So she makes 18 dollars.\n#### 18",
        "The answer is: 9 duck eggs * $2 = $18",
        "The answer is: $18 per day",
        "The answer is: 18.00",
        "The answer is: 9 * 2",
        "The answer is: 17",
        r"We get $\boxed{18}$ eggs.",
        "She has 18 of them",
        "I cannot tell.",
    ],
    "-5": ["The answer is: -5", "The answer is: \u20135", "The answer is: negative 5", "#### 5"],
    "70,000": [
        "The answer is: 70000",
        "The answer is: $70,000.",
        "The answer is: 7",
        "#### 70 000",
    ],
    "0.75": [r"The answer is: $\frac34$", "The answer is: 3/4", "The answer is: 75%", "#### .75"],
}
FORMULAS = {
    "\\frac{1}{2}": [
        "It is $\\boxed{\\dfrac{1}{2}}$.",
        "The answer is: 0.5",
        "The answer is: $\\frac12$",
        "$\\boxed{2}$",
        "I cannot tell.",
    ],
    "8": [
        "$\\boxed{x = 8}$",
        "$\\boxed{2x = 8}$",
        "$\\boxed{8}$ and $\\boxed{9}$",
        "$\\boxed{8.0}$",
    ],
    "x=5": ["$\\boxed{5=x}$", "$\\boxed{5}$", "$\\boxed{x=-5}$"],
    "\\frac{1}{3}": ["$\\boxed{0.\\overline{3}}$", "$\\boxed{0.333}$", "$\\boxed{3^{-1}}$"],
    "60": ["$\\boxed{60 \\text{ km/h}}$", "$\\boxed{60^\\circ}$", "$\\boxed{60\\%}$"],
    "(3,4)": ["$\\boxed{(3, 4)}$", "$\\boxed{(4, 3)}$", "$\\boxed{[3,4]}$"],
    "x^2+2x+1": ["$\\boxed{(x+1)^2}$", "$\\boxed{1+2x+x^2}$", "$\\boxed{x^2+1}$"],
    "y=2x+3": ["$\\boxed{2x-y+3=0}$", "$\\boxed{2y=4x+6}$", "$\\boxed{2x-y+4=0}$"],
    "\\{1,2\\}": ["$\\boxed{2,1}$", "$\\boxed{\\{1, 2\\}}$", "$\\boxed{1}$"],
}
_DOUBLE = "def double(x):\n    return 2 * x\n"
PROGRAMS = [
    _DOUBLE,
    f"Here it is:\n```python\n{_DOUBLE}```\nIt doubles.",
    f"```python\nprint('first')\n```\nThen\n```python\n{_DOUBLE}```",
    f"{_DOUBLE}\ndef other(x):\n    return x +",
    f"{_DOUBLE}\n**Explanation:** it doubles.",
    f"{_DOUBLE}\nimport doctest\ndoctest.testmod()\n",
    "def double(x):\n\treturn x + x\n",
    "def double(x):\n    return x\n",
    "def triple(x):\n    return 3 * x\n",
    "    return 2 * x\n",
    "I cannot tell.",
    "def double(x):\n    raise SystemExit(0)\n",
]
