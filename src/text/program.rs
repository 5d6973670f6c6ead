//! A template as a program for the engine, with checks between its instructions.
//!
//! The engine charges fuel for what an instruction makes once it is there, and for lists by their length alone. Lists that
//! hold each other many times over are short and yet endless as text, lists nested by a loop are as deep as fuel lasts, and
//! a namespace that holds itself has no end at all: printing, comparing or sorting any of them takes memory or the stack.
//! So the compiled program is rewritten: behind every instruction that makes a value stands a look at the whole of it
//! ([`MAX_VALUES`], [`MAX_TEXT`], [`MAX_DEPTH`]), paid for by its size, and before every comparison its size is paid for
//! again. What every later instruction can meet is therefore small, whichever way it goes through it.
//!
//! Namespaces are ours: nothing can look through one, as in Jinja's own implementation, so that what they hold has no way to
//! become part of itself. Views that are computed when they are gone through (slices, zipped and chained lists) become
//! lists at once, so that they cannot be stacked or change behind a look.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use minijinja::machinery::{CodeGenerator, Instruction, Instructions, ast, parse};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{DynObject, Object, ObjectRepr, Rest, ValueKind, ValueOrKwargs};
use minijinja::{Environment, Error, ErrorKind, State, Value};

/// Most values that one value consists of, itself and all that lists and maps in it hold, each time they hold it.
const MAX_VALUES: usize = 1 << 18;
/// Most bytes of text in one value, counted in the same way.
const MAX_TEXT: usize = 16 << 20;
/// Deepest nesting of lists and maps. Messages with frames of videos have four levels.
const MAX_DEPTH: usize = 64;
/// Values looked at for one unit of fuel.
const VALUES_PER_FUEL: usize = 16;

/// Names of our own functions and tests. No template can write them: they are no identifiers.
const IS_VIEW: &str = "view?";
const IS_PAID: &str = "paid?";
const COLLECT: &str = "collect!";
const ASSIGN: &str = "assign!";
const CYCLE: &str = "cycle!";
/// The mark of an instruction whose filter or test is looked up each time.
const NOT_CACHED: u8 = !0;

/// A compiled template: the body, and blocks by name.
pub(super) struct Program<'a> {
    pub body: Instructions<'a>,
    pub blocks: BTreeMap<&'a str, Instructions<'a>>,
}

impl<'a> Program<'a> {
    /// Compiles `source`, which errors call `name`.
    ///
    /// # Errors
    /// A syntax error.
    pub(super) fn compile(name: &'a str, source: &'a str, syntax: SyntaxConfig) -> Result<Program<'a>, Error> {
        let tree: ast::Stmt<'a> = parse(source, name, syntax)?;
        let mut generator = CodeGenerator::new(name, source);
        generator.compile_stmt(&tree);
        let (body, blocks) = generator.finish();
        let blocks = blocks.into_iter().map(|(name, block)| (name, guarded(&block))).collect();
        Ok(Program { body: guarded(&body), blocks })
    }
}

/// The same instructions with checks between them, and every jump moved along.
fn guarded<'a>(old: &Instructions<'a>) -> Instructions<'a> {
    let all: Vec<&Instruction<'a>> = (0..).map_while(|pc| old.get(pc)).collect();
    let targets: BTreeSet<u32> = all.iter().filter_map(|instruction| target(instruction)).collect();
    let mut new = Instructions::new(old.name(), old.source());
    let mut moved = Vec::with_capacity(all.len() + 1);
    let mut jumps = Vec::new();
    for (pc, instruction) in (0u32..).zip(&all) {
        // A text constant as the last operand, whichever way this instruction is reached.
        let after_text = pc > 0
            && !targets.contains(&pc)
            && matches!(all[pc as usize - 1], Instruction::LoadConst(value) if is_scalar(value));
        let mut add = |instruction: Instruction<'a>| match (old.get_span(pc), old.get_line(pc)) {
            (Some(span), _) => new.add_with_span(instruction, span),
            (None, Some(line)) => new.add_with_line(instruction, u16::try_from(line).unwrap_or(u16::MAX)),
            (None, None) => new.add(instruction),
        };
        let mut start = None;
        let mut note = |at: u32| start = start.or(Some(at));
        if is_paid_for(instruction) && !after_text {
            note(add(Instruction::DupTop));
            add(Instruction::PerformTest(IS_PAID, Some(1), NOT_CACHED));
            add(Instruction::DiscardTop);
        }
        match instruction {
            Instruction::SetAttr(name) => {
                note(add(Instruction::LoadConst(Value::from(*name))));
                add(Instruction::CallFunction(ASSIGN, Some(3)));
                add(Instruction::DiscardTop);
            }
            // The engine's own divides by the number of values, and panics when there are none.
            Instruction::CallMethod("cycle", n_args) => note(add(Instruction::CallFunction(CYCLE, *n_args))),
            other => {
                let at = add((*other).clone());
                note(at);
                if target(other).is_some() {
                    jumps.push(at);
                }
            }
        }
        if is_maker(instruction) && !(after_text && matches!(instruction, Instruction::Add)) {
            add(Instruction::DupTop);
            add(Instruction::PerformTest(IS_VIEW, Some(1), NOT_CACHED));
            let skip = add(Instruction::JumpIfFalse(0));
            add(Instruction::CallFunction(COLLECT, Some(1)));
            if let Some(Instruction::JumpIfFalse(to)) = new.get_mut(skip) {
                *to = skip + 2;
            }
        }
        moved.extend(start);
    }
    // A jump may lead behind the last instruction.
    let end = (0..).take_while(|pc| new.get(*pc).is_some()).count();
    moved.push(end as u32);
    for at in jumps {
        if let Some(to) = new.get_mut(at).and_then(target_mut) {
            *to = moved[*to as usize];
        }
    }
    new
}

/// Whether the top of the stack becomes something new, made of what it was given.
fn is_maker(instruction: &Instruction) -> bool {
    matches!(
        instruction,
        Instruction::BuildList(_)
            | Instruction::BuildMap(_)
            | Instruction::BuildTuple(_)
            | Instruction::Slice
            | Instruction::Add
            | Instruction::Mul
            | Instruction::ApplyFilter(..)
            | Instruction::CallFunction(..)
            | Instruction::CallMethod(..)
            | Instruction::CallObject(_)
    )
}

/// Whether the engine compares the top of the stack with something, for no more than an instruction's price.
fn is_paid_for(instruction: &Instruction) -> bool {
    use Instruction::{CompareAndPreserve, Eq, Gt, Gte, In, Lt, Lte, Ne};
    let compares = matches!(instruction, Eq | Ne | Lt | Lte | Gt | Gte | In | CompareAndPreserve(_));
    // The last argument of `is eq(x)` and of `loop.changed(x)`.
    compares
        || matches!(instruction, Instruction::PerformTest(_, Some(n), _) | Instruction::CallMethod(_, Some(n)) if *n > 1)
}

fn target(instruction: &Instruction) -> Option<u32> {
    match instruction {
        Instruction::Iterate(to)
        | Instruction::Jump(to)
        | Instruction::JumpIfFalse(to)
        | Instruction::JumpIfFalseOrPop(to)
        | Instruction::JumpIfTrueOrPop(to)
        | Instruction::BuildMacro(_, to, _) => Some(*to),
        _ => None,
    }
}

fn target_mut<'i>(instruction: &'i mut Instruction<'_>) -> Option<&'i mut u32> {
    match instruction {
        Instruction::Iterate(to)
        | Instruction::Jump(to)
        | Instruction::JumpIfFalse(to)
        | Instruction::JumpIfFalseOrPop(to)
        | Instruction::JumpIfTrueOrPop(to)
        | Instruction::BuildMacro(_, to, _) => Some(to),
        _ => None,
    }
}

fn is_scalar(value: &Value) -> bool {
    !matches!(value.kind(), ValueKind::Seq | ValueKind::Map | ValueKind::Iterable)
}

/// What the added instructions call. One for each rendering.
pub(super) fn equip(env: &mut Environment) -> Namespaces {
    let made = Namespaces::default();
    let list = made.0.clone();
    env.add_function("namespace", move |state: &State, values: Option<ValueOrKwargs>| {
        namespace(state, values.map(ValueOrKwargs::into_value), &list)
    });
    env.add_function(ASSIGN, assign);
    env.add_function(CYCLE, |state: &mut State, args: Rest<Value>| match &args[..] {
        [_] | [] => Err(wrong("cycle takes at least one value".to_string())),
        [of, values @ ..] => of.call_method(state, "cycle", values),
    });
    env.add_function(COLLECT, |view: Value| view.try_iter().map(|items| Value::from(items.collect::<Vec<_>>())));
    env.add_test(IS_VIEW, |state: &State, value: &Value| -> Result<bool, Error> {
        pay(state, value)?;
        Ok(value.kind() == ValueKind::Iterable)
    });
    env.add_test(IS_PAID, |state: &State, value: &Value| pay(state, value).map(|()| true));
    made
}

/// Looks at the whole of `value` and pays for it.
///
/// # Errors
/// It is larger or deeper than the caps of this file allow, or fuel is gone.
pub(super) fn pay(state: &State, value: &Value) -> Result<(), Error> {
    if is_scalar(value) {
        return Ok(());
    }
    let mut size = Size { n_values: 0, n_bytes: 0 };
    let seen = size.add(value, 0);
    state.consume_fuel((size.n_values / VALUES_PER_FUEL) as u64)?;
    seen
}

struct Size {
    n_values: usize,
    n_bytes: usize,
}

impl Size {
    fn add(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        self.n_values += 1;
        self.n_bytes += value.as_str().map_or(0, str::len);
        if self.n_values > MAX_VALUES || self.n_bytes > MAX_TEXT {
            return Err(wrong(format!("a value of more than {MAX_VALUES} values or {MAX_TEXT} bytes of text")));
        }
        if is_scalar(value) {
            return Ok(());
        }
        if depth == MAX_DEPTH {
            return Err(wrong(format!("lists and maps nested more than {MAX_DEPTH} levels deep")));
        }
        let Some(object) = value.as_object() else { return Ok(()) };
        if object.repr() == ObjectRepr::Map {
            for (key, item) in object.try_iter_pairs().into_iter().flatten() {
                self.add(&key, depth + 1)?;
                self.add(&item, depth + 1)?;
            }
        } else {
            for item in object.try_iter().into_iter().flatten() {
                self.add(&item, depth + 1)?;
            }
        }
        Ok(())
    }
}

fn wrong(message: String) -> Error {
    Error::new(ErrorKind::InvalidOperation, message)
}

/// The namespaces of one rendering, which are emptied at its end: they may hold each other, and then nothing else would.
#[derive(Default)]
pub(super) struct Namespaces(Arc<Mutex<Vec<Arc<Namespace>>>>);

impl Drop for Namespaces {
    fn drop(&mut self) {
        for namespace in self.0.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            std::mem::take(&mut *namespace.values());
        }
    }
}

/// What `namespace()` makes: values by name that loops can assign to. It can be asked for a name, and nothing else.
struct Namespace(Mutex<BTreeMap<String, Value>>);

impl Namespace {
    fn values(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Value>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Object for Namespace {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.values().get(key.as_str()?).cloned()
    }

    fn custom_cmp(self: &Arc<Self>, other: &DynObject) -> Option<Ordering> {
        let other = other.downcast_ref::<Self>()?;
        Some(Arc::as_ptr(self).cmp(&std::ptr::from_ref(other)))
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<namespace>")
    }
}

/// Its values may hold itself.
impl fmt::Debug for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<namespace>")
    }
}

/// `namespace(a=1)` or `namespace({'a': 1})`; named values are a map, too.
fn namespace(state: &State, given: Option<Value>, made: &Mutex<Vec<Arc<Namespace>>>) -> Result<Value, Error> {
    let mut values = BTreeMap::new();
    if let Some(map) = given {
        let pairs = map.as_object().filter(|object| object.repr() == ObjectRepr::Map).and_then(|o| o.try_iter_pairs());
        let pairs = pairs.ok_or_else(|| wrong(format!("namespace takes a map or named values, not {}", map.kind())))?;
        values.extend(pairs.filter_map(|(key, value)| Some((key.as_str()?.to_string(), value))));
    }
    state.consume_fuel(2 + 2 * values.len() as u64)?;
    let namespace = Arc::new(Namespace(Mutex::new(values)));
    made.lock().unwrap_or_else(PoisonError::into_inner).push(namespace.clone());
    Ok(Value::from_dyn_object(namespace))
}

/// `{% set target.name = value %}`.
fn assign(state: &State, value: Value, target: Value, name: &str) -> Result<(), Error> {
    let Some(namespace) = target.downcast_object_ref::<Namespace>() else {
        return Err(wrong(format!("can only assign to namespaces, not {}", target.kind())));
    };
    state.consume_fuel(1)?;
    namespace.values().insert(name.to_string(), value);
    Ok(())
}
