//! The values of a pickle: a table of nodes, and a handle that walks it.

/// Place of a node in the table.
pub(crate) type Id = u32;

/// A value; those inside it are named by their places.
#[derive(Debug)]
pub(crate) enum Node<'a> {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Bytes(&'a [u8]),
    Str(&'a str),
    List(Vec<Id>),
    Tuple(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    Global { module: &'a str, name: &'a str },
    Object { class: Id, args: Id, state: Option<Id> },
    Persistent(Id),
}

/// A pickle that has been read. Its strings are those of the bytes it was read from.
#[derive(Debug)]
pub struct Pickle<'a> {
    pub(crate) nodes: Vec<Node<'a>>,
    pub(crate) root: Id,
}

impl<'a> Pickle<'a> {
    /// The value that was pickled.
    pub fn root(&'a self) -> Value<'a> {
        Value { nodes: &self.nodes, id: self.root }
    }
}

/// A value of a pickle. Questions about it that do not fit its kind are answered with nothing.
///
/// A pickle can hold a container that contains itself, so go down only as far as you know the way.
#[derive(Clone, Copy)]
pub struct Value<'a> {
    nodes: &'a [Node<'a>],
    id: Id,
}

/// A call of an admitted class or function, as data.
#[derive(Clone, Copy)]
pub struct Object<'a> {
    /// Module of what is called.
    pub module: &'a str,
    /// Its name.
    pub name: &'a str,
    /// The tuple of arguments.
    pub args: Value<'a>,
    /// What the new object's attributes are set to.
    pub state: Option<Value<'a>>,
}

impl<'a> Value<'a> {
    fn node(self) -> &'a Node<'a> {
        &self.nodes[self.id as usize]
    }

    fn at(self, id: Id) -> Value<'a> {
        Value { id, ..self }
    }

    /// Its kind in words, for messages.
    pub fn kind(self) -> &'static str {
        match self.node() {
            Node::None => "None",
            Node::Bool(_) => "bool",
            Node::Int(_) => "int",
            Node::Float(_) => "float",
            Node::Bytes(_) => "bytes",
            Node::Str(_) => "str",
            Node::List(_) => "list",
            Node::Tuple(_) => "tuple",
            Node::Dict(_) => "dict",
            Node::Global { .. } => "class",
            Node::Object { .. } => "object",
            Node::Persistent(_) => "persistent id",
        }
    }

    /// Whether it is `None`.
    pub fn is_none(self) -> bool {
        matches!(self.node(), Node::None)
    }

    /// A `bool`.
    pub fn as_bool(self) -> Option<bool> {
        if let Node::Bool(value) = *self.node() { Some(value) } else { None }
    }

    /// An `int` (a `bool` is none).
    pub fn as_int(self) -> Option<i64> {
        if let Node::Int(value) = *self.node() { Some(value) } else { None }
    }

    /// A `float`, or an `int` as one.
    pub fn as_float(self) -> Option<f64> {
        match *self.node() {
            Node::Float(value) => Some(value),
            Node::Int(value) => Some(value as f64),
            _ => None,
        }
    }

    /// A `str`.
    pub fn as_str(self) -> Option<&'a str> {
        if let Node::Str(value) = *self.node() { Some(value) } else { None }
    }

    /// `bytes`.
    pub fn as_bytes(self) -> Option<&'a [u8]> {
        if let Node::Bytes(value) = *self.node() { Some(value) } else { None }
    }

    /// A class or function: its module and name.
    pub fn as_global(self) -> Option<(&'a str, &'a str)> {
        if let Node::Global { module, name } = *self.node() { Some((module, name)) } else { None }
    }

    /// A call.
    pub fn as_object(self) -> Option<Object<'a>> {
        let Node::Object { class, args, state } = *self.node() else { return None };
        let (module, name) = self.at(class).as_global()?;
        Some(Object { module, name, args: self.at(args), state: state.map(|id| self.at(id)) })
    }

    /// What stands for data that is kept outside the pickle.
    pub fn as_persistent_id(self) -> Option<Value<'a>> {
        if let Node::Persistent(id) = *self.node() { Some(self.at(id)) } else { None }
    }

    /// The elements of a list or tuple.
    pub fn items(self) -> impl ExactSizeIterator<Item = Value<'a>> {
        let ids: &[Id] = if let Node::List(ids) | Node::Tuple(ids) = self.node() { ids } else { &[] };
        ids.iter().map(move |&id| self.at(id))
    }

    /// The keys and values of a dict in the order of their setting. A key may come twice: its last value counts.
    pub fn entries(self) -> impl ExactSizeIterator<Item = (Value<'a>, Value<'a>)> {
        let ids: &[(Id, Id)] = if let Node::Dict(ids) = self.node() { ids } else { &[] };
        ids.iter().map(move |&(key, value)| (self.at(key), self.at(value)))
    }

    /// The value of a dict for a string.
    pub fn get(self, key: &str) -> Option<Value<'a>> {
        let found = self.entries().filter(|(found, _)| found.as_str() == Some(key));
        found.last().map(|(_, value)| value)
    }
}

impl std::fmt::Debug for Value<'_> {
    /// Its kind alone, as a container may hold itself.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Value({})", self.kind())
    }
}
