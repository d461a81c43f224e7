//! The stack machine: one function an opcode's family, one check of the limits an opcode.
//!
//! Opcodes are those that Python 3 writes in protocols 2 to 5 for plain data
//! (<https://github.com/python/cpython/blob/main/Lib/pickletools.py> lists all).

use std::collections::HashMap;

use crate::Error;
use crate::value::{Id, Node, Pickle};

/// A longer pickle is refused.
pub const MAX_BYTES: usize = 1 << 24;

/// A pickle is refused when it holds more values than this, counting those on its stack and those it remembers.
pub const MAX_VALUES: usize = 1 << 22;

/// Values that are always there.
const NONE: Id = 0;
const FALSE: Id = 1;
const TRUE: Id = 2;

/// Reads a pickle. `admit` is asked about every class and function by module and name, apart from
/// `collections.OrderedDict`, which is a dict.
pub fn read<'a>(bytes: &'a [u8], admit: impl Fn(&str, &str) -> bool) -> Result<Pickle<'a>, Error> {
    if bytes.len() > MAX_BYTES {
        return Err(Error::TooLarge { what: "bytes", limit: MAX_BYTES });
    }
    let nodes = vec![Node::None, Node::Bool(false), Node::Bool(true)];
    let mut machine = Machine {
        bytes,
        at: 0,
        opcode_at: 0,
        nodes,
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
    };
    while !machine.step(&admit)? {
        machine.check_size()?;
    }
    let root = machine.pop()?;
    if !machine.stack.is_empty() || !machine.marks.is_empty() {
        return Err(machine.damaged("values are left over"));
    }
    Ok(Pickle { nodes: machine.nodes, root })
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    opcode_at: usize,
    nodes: Vec<Node<'a>>,
    stack: Vec<Id>,
    /// Heights of the stack.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
}

impl<'a> Machine<'a> {
    /// Executes one opcode; `true` after the last.
    fn step(&mut self, admit: &impl Fn(&str, &str) -> bool) -> Result<bool, Error> {
        self.opcode_at = self.at;
        let code = self.byte()?;
        match code {
            // PROTO, FRAME, STOP
            0x80 => return self.protocol(),
            0x95 => drop(self.take(8)?),
            b'.' => return Ok(true),
            b'N' => self.stack.push(NONE),
            0x88 => self.stack.push(TRUE),
            0x89 => self.stack.push(FALSE),
            b'J' | b'K' | b'M' | 0x8a | 0x8b | b'G' => self.number(code)?,
            b'X' | 0x8c | 0x8d | b'B' | b'C' | 0x8e => self.text(code)?,
            b'(' => self.marks.push(self.stack.len()),
            b']' => self.push(Node::List(Vec::new())),
            b'}' => self.push(Node::Dict(Vec::new())),
            b')' | b't' | 0x85 | 0x86 | 0x87 => self.tuple(code)?,
            b'a' | b'e' => self.append(code)?,
            b's' | b'u' => self.set_items(code)?,
            b'q' | b'r' | 0x94 => self.memoize(code)?,
            b'h' | b'j' => self.recall(code)?,
            b'c' | 0x93 => self.global(code, admit)?,
            b'R' | 0x81 => self.call()?,
            b'b' => self.build()?,
            b'Q' => {
                let id = self.pop()?;
                self.push(Node::Persistent(id));
            }
            _ => return Err(Error::Opcode { code, at: self.opcode_at }),
        }
        Ok(false)
    }

    fn check_size(&self) -> Result<(), Error> {
        let values = self.nodes.len() + self.stack.len() + self.marks.len() + self.memo.len();
        if values > MAX_VALUES {
            return Err(Error::TooLarge { what: "values", limit: MAX_VALUES });
        }
        Ok(())
    }

    fn protocol(&mut self) -> Result<bool, Error> {
        match self.byte()? {
            2..=5 => Ok(false),
            _ => Err(self.damaged("only protocols 2 to 5 are known")),
        }
    }

    /// BININT, BININT1, BININT2, LONG1, LONG4, BINFLOAT.
    fn number(&mut self, code: u8) -> Result<(), Error> {
        let node = match code {
            b'G' => Node::Float(f64::from_be_bytes(self.array()?)),
            b'J' => Node::Int(i32::from_le_bytes(self.array()?).into()),
            b'K' => Node::Int(self.byte()?.into()),
            b'M' => Node::Int(u16::from_le_bytes(self.array()?).into()),
            _ => {
                let len = if code == 0x8a { self.byte()?.into() } else { self.length(4)? };
                let digits = self.take(len)?;
                if len > 8 {
                    return Err(self.damaged("an integer has more than 64 bits"));
                }
                let negative = digits.last().is_some_and(|top| top & 0x80 != 0);
                let mut wide = if negative { [0xff; 8] } else { [0; 8] };
                wide[..len].copy_from_slice(digits);
                Node::Int(i64::from_le_bytes(wide))
            }
        };
        self.push(node);
        Ok(())
    }

    /// BINUNICODE, SHORT_BINUNICODE, BINUNICODE8, BINBYTES, SHORT_BINBYTES, BINBYTES8.
    fn text(&mut self, code: u8) -> Result<(), Error> {
        let len = match code {
            0x8c | b'C' => self.length(1)?,
            b'X' | b'B' => self.length(4)?,
            _ => self.length(8)?,
        };
        let bytes = self.take(len)?;
        let node = match code {
            b'X' | 0x8c | 0x8d => Node::Str(self.utf8(bytes)?),
            _ => Node::Bytes(bytes),
        };
        self.push(node);
        Ok(())
    }

    /// EMPTY_TUPLE, TUPLE, TUPLE1, TUPLE2, TUPLE3.
    fn tuple(&mut self, code: u8) -> Result<(), Error> {
        let items = match code {
            b')' => Vec::new(),
            b't' => self.pop_to_mark()?,
            _ => self.pop_many(usize::from(code - 0x84))?,
        };
        self.push(Node::Tuple(items));
        Ok(())
    }

    /// APPEND, APPENDS.
    fn append(&mut self, code: u8) -> Result<(), Error> {
        let items = if code == b'a' { self.pop_many(1)? } else { self.pop_to_mark()? };
        let list = self.top()?;
        match &mut self.nodes[list as usize] {
            Node::List(ids) => ids.extend(items),
            _ => return Err(self.damaged("elements are appended to what is no list")),
        }
        Ok(())
    }

    /// SETITEM, SETITEMS.
    fn set_items(&mut self, code: u8) -> Result<(), Error> {
        let items = if code == b's' { self.pop_many(2)? } else { self.pop_to_mark()? };
        if !items.len().is_multiple_of(2) {
            return Err(self.damaged("a key has no value"));
        }
        let dict = self.top()?;
        match &mut self.nodes[dict as usize] {
            Node::Dict(ids) => ids.extend(items.chunks_exact(2).map(|pair| (pair[0], pair[1]))),
            _ => return Err(self.damaged("keys are set in what is no dict")),
        }
        Ok(())
    }

    /// BINPUT, LONG_BINPUT, MEMOIZE.
    fn memoize(&mut self, code: u8) -> Result<(), Error> {
        let key = match code {
            b'q' => self.byte()?.into(),
            b'r' => u32::from_le_bytes(self.array()?),
            _ => self.memo.len() as u32,
        };
        let value = self.top()?;
        self.memo.insert(key, value);
        Ok(())
    }

    /// BINGET, LONG_BINGET.
    fn recall(&mut self, code: u8) -> Result<(), Error> {
        let key = if code == b'h' { self.byte()?.into() } else { u32::from_le_bytes(self.array()?) };
        let id = self.memo.get(&key).copied();
        self.stack.push(id.ok_or_else(|| self.damaged("it recalls what it never remembered"))?);
        Ok(())
    }

    /// GLOBAL, STACK_GLOBAL.
    fn global(&mut self, code: u8, admit: &impl Fn(&str, &str) -> bool) -> Result<(), Error> {
        let (module, name) = if code == b'c' {
            (self.line()?, self.line()?)
        } else {
            let ids = self.pop_many(2)?;
            match (&self.nodes[ids[0] as usize], &self.nodes[ids[1] as usize]) {
                (Node::Str(module), Node::Str(name)) => (*module, *name),
                _ => return Err(self.damaged("a name is no string")),
            }
        };
        if !is_ordered_dict(module, name) && !admit(module, name) {
            let global = format!("{module}.{name}");
            return Err(Error::Forbidden { global: global.chars().take(100).collect() });
        }
        self.push(Node::Global { module, name });
        Ok(())
    }

    /// REDUCE, NEWOBJ: a call becomes data.
    fn call(&mut self) -> Result<(), Error> {
        let ids = self.pop_many(2)?;
        let (class, args) = (ids[0], ids[1]);
        let node = match (&self.nodes[class as usize], &self.nodes[args as usize]) {
            (Node::Global { module, name }, Node::Tuple(items))
                if is_ordered_dict(module, name) && items.is_empty() =>
            {
                Node::Dict(Vec::new())
            }
            (Node::Global { .. }, Node::Tuple(_)) => Node::Object { class, args, state: None },
            _ => return Err(self.damaged("it calls what cannot be called")),
        };
        self.push(node);
        Ok(())
    }

    /// BUILD: attributes of an object. Those of an `OrderedDict` (torch keeps versions there) are left out.
    fn build(&mut self) -> Result<(), Error> {
        let value = self.pop()?;
        let object = self.top()?;
        match &mut self.nodes[object as usize] {
            Node::Object { state, .. } => *state = Some(value),
            Node::Dict(_) => {}
            _ => return Err(self.damaged("attributes are set on what is no object")),
        }
        Ok(())
    }

    fn push(&mut self, node: Node<'a>) {
        self.stack.push(self.nodes.len() as Id);
        self.nodes.push(node);
    }

    /// The height of the stack below which values belong to what began before the last mark.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn top(&self) -> Result<Id, Error> {
        let top = self.stack[self.floor()..].last().copied();
        top.ok_or_else(|| self.damaged("the stack is empty"))
    }

    fn pop(&mut self) -> Result<Id, Error> {
        let top = self.top()?;
        self.stack.pop();
        Ok(top)
    }

    fn pop_many(&mut self, count: usize) -> Result<Vec<Id>, Error> {
        if self.stack.len() - self.floor() < count {
            return Err(self.damaged("the stack is too short"));
        }
        Ok(self.stack.drain(self.stack.len() - count..).collect())
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Id>, Error> {
        let mark = self.marks.pop().ok_or_else(|| self.damaged("a mark is missing"))?;
        Ok(self.stack.drain(mark..).collect())
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], Error> {
        let rest = &self.bytes[self.at..];
        let taken = rest.get(..len).ok_or_else(|| self.damaged("it ends early"))?;
        self.at += len;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn byte(&mut self) -> Result<u8, Error> {
        self.array().map(|[byte]| byte)
    }

    /// A length in `width` bytes. What is longer than the pickle is found out when it is taken.
    fn length(&mut self, width: usize) -> Result<usize, Error> {
        let mut wide = [0; 8];
        wide[..width].copy_from_slice(self.take(width)?);
        Ok(usize::try_from(u64::from_le_bytes(wide)).unwrap_or(usize::MAX))
    }

    fn line(&mut self) -> Result<&'a str, Error> {
        let rest = &self.bytes[self.at..];
        let len = rest.iter().position(|&b| b == b'\n').ok_or_else(|| self.damaged("it ends early"))?;
        self.at += len + 1;
        self.utf8(&rest[..len])
    }

    fn utf8(&self, bytes: &'a [u8]) -> Result<&'a str, Error> {
        std::str::from_utf8(bytes).map_err(|_| self.damaged("a string is not UTF-8"))
    }

    fn damaged(&self, reason: &'static str) -> Error {
        Error::Damaged { at: self.opcode_at, reason }
    }
}

fn is_ordered_dict(module: &str, name: &str) -> bool {
    (module, name) == ("collections", "OrderedDict")
}
