//! Templates that build values to attack with, and random ones.

use std::time::{Duration, Instant};

use super::*;
use longtake::random::Rng;

fn render(source: &str) -> Result<String, Error> {
    ChatTemplate::new(source).and_then(|t| t.render(&user("hello"), RenderOptions::default()))
}

/// Every way that the engine goes through a whole value.
const ROUTES: [&str; 34] = [
    "{{ X|string|length }}",
    "{{ (X ~ 'a')|length }}",
    "{{ ('a' ~ X)|length }}",
    "{{ ([X] ~ {'a': X})|length }}",
    "{{ X == Y }}",
    "{{ X != Y }}",
    "{{ {'a': X} == {'a': Y} }}",
    "{{ X < Y }}",
    "{{ X <= Y < X }}",
    "{{ X in [Y] }}",
    "{{ X not in [Y, Y] }}",
    "{{ X is eq(Y) }}",
    "{{ X is in([Y]) }}",
    "{{ [X, Y]|sort|length }}",
    "{{ [X, Y]|unique|list|length }}",
    "{{ [X, Y]|max|length }}",
    "{{ [X, Y]|min|length }}",
    "{{ [X, Y, X]|join|length }}",
    "{{ [1, 2]|join(X)|length }}",
    "{{ X|join|length }}",
    "{{ X|escape|length }}",
    "{{ X|e|e|length }}",
    "{{ X|tojson|length }}",
    "{{ 'a'|replace(X, 'b') }}",
    "{{ 'abc'|replace('b', X)|length }}",
    "{{ '%s'|format(X)|length }}",
    "{{ {X: 1}|length }}",
    "{{ [{'a': X}, {'a': Y}]|groupby('a')|length }}",
    "{{ [{'a': X}, {'a': Y}]|sort(attribute='a')|length }}",
    "{{ [X, X].count(Y) }}",
    "{% for i in [1, 2] %}{{ loop.changed(X) }}{{ loop.changed([X, Y]) }}{% endfor %}",
    "{{ X|indent|length }}{{ X|trim|length }}{{ X|upper|length }}",
    "{{ raise_exception(X) }}",
    "{{ X|sum }}{{ X|batch(2)|string|length }}{{ X|slice(2)|string|length }}{{ dict(a=X)|string|length }}",
];

/// What builds X and Y, two values of the same form.
const BUILDERS: [&str; 14] = [
    // Namespaces that hold themselves.
    "{% set X = namespace() %}{% set X.a = X %}{% set Y = namespace() %}{% set Y.a = Y %}",
    "{% set n = namespace() %}{% set n.a = [n] %}{% set m = namespace() %}{% set m.a = [m] %}{% set X = n.a %}{% set Y = m.a %}",
    "{% set n = namespace() %}{% set m = namespace() %}{% set n.a = {'b': m} %}{% set m.a = {'b': n} %}{% set X = [n, m] %}{% set Y = [m, n] %}",
    "{% set n = namespace({'a': 1}) %}{% set X = namespace(a=n) %}{% set n.a = (X, X) %}{% set Y = [X, n] %}",
    "{% set X = namespace() %}{% for X.a in [X] %}{% endfor %}{% set Y = X %}",
    // Loops, which namespaces hold and which hold what they go through.
    "{% set n = namespace() %}{% for i in [n, n] %}{% set n.a = loop %}{% set n.b = [loop] %}{% endfor %}{% set X = n.b %}{% set Y = [n.a] %}",
    "{% set n = namespace() %}{% for i in [n, n] %}{% set n.a = loop|items %}{% endfor %}{% set X = n.a %}{% set Y = n.a|list %}",
    // Lists that hold each other many times over.
    "{% set n = namespace(a=[1], b=[1]) %}{% for i in range(40) %}{% set n.a = [n.a, n.a] %}{% set n.b = [n.b, n.b] %}{% endfor %}{% set X = n.a %}{% set Y = n.b %}",
    "{% set n = namespace(a={'a': 1}, b={'a': 1}) %}{% for i in range(90) %}{% set n.a = {'a': n.a, 'b': n.a} %}{% set n.b = {'a': n.b, 'b': n.b} %}{% endfor %}{% set X = n.a %}{% set Y = n.b %}",
    "{% set n = namespace(a='a' * 9999) %}{% for i in range(30) %}{% set n.a = (n.a, n.a) %}{% endfor %}{% set X = n.a %}{% set Y = [X] %}",
    // Deep ones.
    "{% set n = namespace(a=[1], b=[1]) %}{% for i in range(9999) %}{% set n.a = [n.a] %}{% set n.b = [n.b] %}{% endfor %}{% set X = n.a %}{% set Y = n.b %}",
    "{% set n = namespace(a=[1, 2]) %}{% for i in range(5000) %}{% set n.a = n.a[0:] %}{% endfor %}{% set X = n.a %}{% set Y = n.a %}",
    "{% set n = namespace(a=[1, 2]) %}{% for i in range(5000) %}{% set n.a = n.a|zip(n.a) %}{% endfor %}{% set X = n.a %}{% set Y = n.a|chain(n.a) %}",
    "{% set n = namespace(a=[1, 2]) %}{% for i in range(5000) %}{% set n.a = n.a|batch(1) %}{% endfor %}{% set X = n.a %}{% set Y = n.a %}",
];

/// Straight-line doubling, and doubling by recursion of macros, whose values no namespace ever holds.
fn more_builders() -> Vec<String> {
    let double = |x: &str, with: &str| format!("{{% set {x} = [1] %}}{}", with.replace('X', x).repeat(60));
    let lists = "{% set X = [X, X] %}";
    let sums = "{% set X = X + X %}";
    let products = "{% set X = [X] * 9 %}";
    let macros = "{% macro m(X, Y, n) %}{% if n %}{{ m([X, X], [Y, Y], n - 1) }}{% else %}ROUTE{% endif %}{% endmacro %}{{ m([1], [1], 60) }}";
    let loops = "{% for X in [[1]] recursive %}{% if loop.depth < 60 %}{{ loop([[X, X]]) }}{% else %}{% set Y = [X] %}ROUTE{% endif %}{% endfor %}";
    [lists, sums, products]
        .map(|with| double("X", with) + &double("Y", with))
        .into_iter()
        .chain([macros.to_string(), loops.to_string()])
        .collect()
}

#[test]
fn no_value_takes_the_stack_or_the_memory() {
    let mut slowest = (Duration::ZERO, String::new());
    let builders = BUILDERS.map(String::from).into_iter().chain(more_builders());
    for builder in builders {
        for route in ROUTES {
            let source =
                if builder.contains("ROUTE") { builder.replace("ROUTE", route) } else { builder.clone() + route };
            let start = Instant::now();
            // Rendered or refused: what counts is that it ends, and soon.
            if let Err(err) = render(&source) {
                assert!(!err.to_string().contains("the engine failed"), "{source}: {err}");
            }
            slowest = slowest.max((start.elapsed(), source));
        }
    }
    println!("slowest: {slowest:?}");
    assert!(slowest.0 < Duration::from_secs(5), "{slowest:?}");
}

#[test]
fn namespaces_do_what_templates_need_them_for() {
    for (source, want) in [
        (
            "{% set n = namespace(a=1, b='x') %}{% for i in range(3) %}{% set n.a = n.a + i %}{% endfor %}{{ n.a }}{{ n.b }}",
            "4x",
        ),
        ("{% set n = namespace({'a': 1}) %}{{ n.a }}{{ n['a'] }}{{ n.b is defined }}{{ n.c is none }}", "11FalseFalse"),
        ("{% set n = namespace() %}{% set n.a %}x{{ 1 }}y{% endset %}{{ n.a }}", "x1y"),
        ("{% set n = namespace(a=0, b=0) %}{% set n.a, n.b = 1, 2 %}{{ n.a }}{{ n.b }}", "12"),
        ("{% set n = namespace(m=namespace(a=1)) %}{% set n.m.a = 2 %}{{ n.m.a }}", "2"),
        (
            "{% set n = namespace(a=[]) %}{% for m in messages %}{% set n.a = n.a + [m.role] %}{% endfor %}{{ n.a|join(',') }}",
            "user",
        ),
        (
            "{% set n = namespace() %}{% set m = namespace() %}{{ n == n }}{{ n == m }}{{ n is mapping }}",
            "TrueFalseFalse",
        ),
        ("{% macro f(n) %}{% set n.a = 7 %}{% endmacro %}{% set n = namespace(a=1) %}{{ f(n) }}{{ n.a }}", "7"),
        ("{% if not n is defined %}{% set n = namespace(a=false) %}{% endif %}{{ n.a or 'no' }}", "no"),
        ("{% set n = namespace(a=messages[1:]) %}{{ n.a|length }}{{ messages[::-1][0].content }}", "0hello"),
    ] {
        assert_eq!(render(source).unwrap_or_else(|err| panic!("{source}: {err}")), want, "{source}");
    }
    for (source, want) in [
        ("{% set a = {} %}{% set a.b = 1 %}", "can only assign to namespaces, not map"),
        ("\n\n{% set a.b = 1 %}", "line 3: invalid operation: can only assign to namespaces, not undefined"),
        ("{{ namespace(1) }}", "namespace takes a map or named values"),
        ("{{ namespace() }}", "it prints a plain object"),
        ("{{ namespace()|tojson }}", "cannot write a value of type plain object"),
        ("{% for i in namespace() %}{% endfor %}", "not iterable"),
    ] {
        let err = render(source).unwrap_err().to_string();
        assert!(err.contains(want), "{source}: {err}");
    }
}

#[test]
fn control_flow_is_that_of_the_engine() {
    for (source, want) in [
        (
            "{% for i in range(9) if i is odd %}{% if i > 5 %}{% break %}{% endif %}{{ loop.cycle('a', 'b') }}{{ i }}{% else %}none{% endfor %}",
            "a1b3a5",
        ),
        ("{% for i in [] %}x{% else %}none{% endfor %}", "none"),
        (
            "{% for x in [[1, [2, [3]]]] recursive %}{% if x is iterable %}({{ loop(x) }}){% else %}{{ x }}{% endif %}{% endfor %}",
            "(1(2(3)))",
        ),
        (
            "{% for x in [[1, [2]]] recursive %}{% set y = loop(x) if x is iterable else x %}<{{ y }}>{% endfor %}",
            "<<1><<2>>>",
        ),
        (
            "{% macro m(a, b='z') %}{{ a }}{{ b }}{{ caller() if caller else '' }}{% endmacro %}{{ m(1) }}{% call m(2, b='y') %}c{% endcall %}",
            "1z2yc",
        ),
        (
            "{{ 'a' if 1 < 2 < 3 and not (1 in [2, 3]) else 'b' }}{{ (none or 'c') == 'c' }}{{ 'x' in 'xyz' }}",
            "aTrueTrue",
        ),
        ("{{ [1, 2, 3][1:]|join('-') }}{{ (1, 2)|last }}{{ {'a': [1, 2]}['a'][-1] }}{{ dict(a=1).a }}", "2-3221"),
        (
            "{% block a %}in{{ [1, 2]|length }}{% endblock %}{% set a, b = [1, 2] %}{{ a + b }}{% with c = 3 %}{{ c }}{% endwith %}",
            "in233",
        ),
        (
            "{% filter upper %}a{{ 'b' * 2 }}{% endfilter %}{% for k, v in {'x': 1}|items %}{{ k }}{{ v }}{% endfor %}",
            "ABBx1",
        ),
        (
            "{{ messages|map(attribute='role')|list|tojson }}{{ range(3)|list == [0, 1, 2] }}{{ range(5)[1:3]|list }}",
            "no",
        ),
        (
            "{% for m in messages %}{{ loop.previtem is defined }}{{ loop.last }}{{ loop.index0 }}{% endfor %}",
            "FalseTrue0",
        ),
    ] {
        match render(source) {
            Ok(got) => assert_eq!(got, want, "{source}"),
            Err(err) => assert!(want == "no" && err.to_string().contains("it prints a sequence"), "{source}: {err}"),
        }
    }
}

#[test]
fn cycle_without_values_is_an_error_without_a_panic() {
    for source in [
        "{% for i in [1] %}{{ loop.cycle() }}{% endfor %}",
        "{% for i in [1] %}{{ loop.cycle(*[]) }}{% endfor %}",
        "{% for i in [1] %}{% set l = loop %}{{ l.cycle() }}{% endfor %}",
    ] {
        let err = render(source).unwrap_err().to_string();
        assert!(err.contains("cycle takes at least one value"), "{source}: {err}");
    }
}

/// Random programs: whatever they do, they end without a panic. `LONGTAKE_FUZZ=N` tries N programs instead.
#[test]
fn random_templates_end_in_text_or_errors() {
    let n: u64 = std::env::var("LONGTAKE_FUZZ").ok().and_then(|n| n.parse().ok()).unwrap_or(1500);
    let (mut n_rendered, mut slowest) = (0, (Duration::ZERO, 0));
    for seed in 0..n {
        let mut program = Program { rng: Rng(seed), left: 60 };
        let n_statements = 1 + program.rng.below(3);
        let source = PRELUDE.to_string() + &(0..n_statements).map(|_| program.statement(2)).collect::<String>();
        let start = Instant::now();
        match render(&source) {
            Ok(_) => n_rendered += 1,
            Err(err) => assert!(!err.to_string().contains("the engine failed"), "seed {seed}: {source}: {err}"),
        }
        slowest = slowest.max((start.elapsed(), seed));
    }
    println!("{n_rendered} of {n} rendered; slowest: {slowest:?}");
    assert!(n_rendered > n / 50, "{n_rendered} of {n}: the grammar makes too few programs that work");
    assert!(slowest.0 < Duration::from_secs(8), "{slowest:?}");
}

/// Something for every name of the grammar.
const PRELUDE: &str = "{% set a = [1, 2] %}{% set b = 'text' %}{% set m = {'a': 1} %}{% set n = namespace(a=[0]) %}{% set x = 1 %}\
    {% macro mac(x) %}{{ x|string }}{% endmacro %}";

/// Draws programs from a grammar.
struct Program {
    rng: Rng,
    left: usize,
}

impl Program {
    fn one<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.rng.below(of.len())]
    }

    fn name(&mut self) -> &'static str {
        self.one(&["a", "b", "n", "m", "messages", "loop", "x"])
    }

    fn expression(&mut self, depth: usize) -> String {
        self.left = self.left.saturating_sub(1);
        if depth == 0 || self.left == 0 {
            let leaf =
                ["1", "0", "-7", "3.5", "true", "none", "'text'", "''", "[]", "{}", "range(9)", "9223372036854775807"];
            return if self.rng.below(2) == 0 { self.name().to_string() } else { self.one(&leaf).to_string() };
        }
        let x = self.expression(depth - 1);
        match self.rng.below(13) {
            0 => format!("[{x}, {}]", self.expression(depth - 1)),
            1 => format!("{{'a': {x}, 'b': {}}}", self.expression(depth - 1)),
            2 => format!("({x}, {})", self.expression(depth - 1)),
            3..=5 => {
                let filters = [
                    "string",
                    "list",
                    "sort",
                    "join",
                    "join('-')",
                    "tojson",
                    "escape",
                    "length",
                    "first",
                    "last",
                    "min",
                    "max",
                    "unique",
                    "reverse",
                    "batch(2)",
                    "slice(2)",
                    "batch(0)",
                    "slice(0)",
                    "items",
                    "dictsort",
                    "sum",
                    "trim",
                    "upper",
                    "title",
                    "default(1)",
                    "replace('t', n)",
                    "indent(3)",
                    "map('string')",
                    "map(attribute='a')",
                    "select('defined')",
                    "reject('eq', 1)",
                    "groupby('a')",
                    "chain(n)",
                    "zip(m)",
                    "format(1, n)",
                    "abs",
                    "round(3)",
                    "int",
                    "float",
                    "attr('a')",
                    "split",
                    "split('x', 1)",
                    "lines",
                    "bool",
                    "selectattr('a')",
                    "sort(reverse=true)",
                    "sort(attribute='a')",
                    "round(400)",
                    "indent(-1)",
                    "slice(-1)",
                    "tojson(indent=2)",
                ];
                format!("{x}|{}", self.one(&filters))
            }
            6 | 7 => {
                let operators =
                    ["+", "-", "*", "/", "//", "%", "**", "~", "==", "!=", "<", ">=", "in", "and", "or", "not in"];
                format!("({x} {} {})", self.one(&operators), self.expression(depth - 1))
            }
            8 => format!(
                "{x}[{}]",
                self.one(&["0", "-1", "'a'", "n", "1:", "::-1", ":2", "::0", "a:b", "9223372036854775807:"])
            ),
            9 => format!("{x}.{}", self.one(&["a", "role", "content", "index", "previtem", "nextitem", "depth"])),
            10 => {
                let methods = [
                    "items()",
                    "keys()",
                    "get('a')",
                    "upper()",
                    "split('t')",
                    "replace('t', 'tt')",
                    "join(['a', 'b'])",
                    "count(1)",
                    "cycle(1, 2)",
                    "cycle()",
                    "changed(n)",
                    "startswith('t')",
                    "strip()",
                    "find('x')",
                    "splitlines()",
                    "title()",
                    "cycle(*a)",
                    "values()",
                    "rfind('t')",
                    "split('')",
                    "format(n)",
                ];
                format!("{x}.{}", self.one(&methods))
            }
            11 => format!("({x} if {} else {})", self.expression(depth - 1), self.expression(depth - 1)),
            _ => {
                let calls = [
                    "namespace(a={})",
                    "dict(a={})",
                    "range({})",
                    "mac({})",
                    "loop({})",
                    "namespace({})",
                    "caller({})",
                ];
                self.one(&calls).replace("{}", &x)
            }
        }
    }

    fn statement(&mut self, depth: usize) -> String {
        let x = self.expression(2);
        if depth == 0 || self.left == 0 {
            return format!("{{{{ ({x})|string }}}}");
        }
        let body = self.statement(depth - 1);
        match self.rng.below(12) {
            0 => format!("{{% set {} = {x} %}}{body}", self.one(&["a", "b", "x"])),
            1 => format!("{{% set n = namespace(a={x}) %}}{body}"),
            2 | 3 => format!("{{% set n = namespace() %}}{{% set n.a = {x} %}}{{% set n.b = n %}}{body}"),
            4 | 5 => format!("{{% for a in {x} %}}{body}{{% endfor %}}"),
            6 => format!("{{% for a in {x} recursive %}}{body}{{{{ loop(a) }}}}{{% endfor %}}"),
            7 => format!("{{% for i in range(20) %}}{{% set n.a = {x} %}}{body}{{% endfor %}}"),
            8 => format!("{{% if {x} %}}{body}{{% else %}}{}{{% endif %}}", self.statement(depth - 1)),
            9 => format!("{{% macro mac(x) %}}{body}{{% endmacro %}}{{{{ mac({x}) }}}}"),
            10 => format!(
                "{{% set n = namespace(a=1) %}}{{% set n.a %}}{body}{{% endset %}}{{{{ ({x})|string|length }}}}"
            ),
            _ => format!("{{% set m = {x} %}}{body}{{{{ m|string|length }}}}"),
        }
    }
}
