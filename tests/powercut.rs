//! Power may go at any instruction: the next boot finds a whole system with its own configuration.

mod sim;
mod world;
