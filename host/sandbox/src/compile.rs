//! Compiling, with bounds: in a process of its own, which the system ends when it takes too much.
//!
//! A component of some megabytes can keep a compiler busy for minutes, or make it take gigabytes, and a compiler that
//! gets no memory aborts its process. So a server starts itself a second time, as nothing but a compiler
//! ([`compile_child`]): the component goes in, machine code comes out, and whatever happens to that process is an error
//! message here.

use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::sync::mpsc::sync_channel;
use std::sync::{Mutex, PoisonError};

use rlimit::Resource;

use crate::engine;
use crate::limits::{CompileLimits, RunLimits, UploadLimits, bound};
use crate::run::ReadyError;

/// The argument with which a server's binary is a compiler and nothing else.
pub const COMPILE_COMMAND: &str = "compile-component";

/// The binary as it runs now, also if its file has been replaced since.
const THIS_BINARY: &str = "/proc/self/exe";

/// What the compiler's answer begins with.
const CODE: u8 = 0;
const REFUSED: u8 = 1;

/// The longest message that is read of a compiler.
const MESSAGE_BYTES: u64 = 4 << 10;

/// Signals by which the system ends a process that has used its time: SIGKILL, SIGXCPU.
const OUT_OF_TIME: [i32; 2] = [9, 24];

/// Compiles in a process of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compiler {
    program: PathBuf,
    limits: CompileLimits,
}

impl Compiler {
    /// This program, which calls [`compile_child`] when its first argument is [`COMPILE_COMMAND`].
    ///
    /// # Errors
    /// If the program cannot be found.
    pub fn this_program(limits: CompileLimits) -> io::Result<Compiler> {
        let program = match Path::new(THIS_BINARY) {
            path if path.exists() => path.to_owned(),
            _ => std::env::current_exe()?,
        };
        Ok(Compiler::of(program, limits))
    }

    /// Another program that does so.
    pub fn of(program: PathBuf, limits: CompileLimits) -> Compiler {
        Compiler { program, limits }
    }

    /// The machine code of a component, for an engine with the default limits.
    pub(crate) fn compile(&self, component: &[u8]) -> Result<Vec<u8>, ReadyError> {
        let failed = |error: io::Error| ReadyError::Compile(format!("no compiler runs: {error}"));
        let limits = &self.limits;
        let mut child = Command::new(&self.program)
            .arg(COMPILE_COMMAND)
            .arg(limits.cpu_seconds.to_string())
            .arg(limits.memory_bytes.to_string())
            .env_clear()
            // One thread, so that a compilation takes one processor at most.
            .env("RAYON_NUM_THREADS", "1")
            // What the allocator reserves ahead is not to count as taken, or a small bound leaves it nothing.
            .env("MIMALLOC_ARENA_EAGER_COMMIT", "0")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(failed)?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let child = Mutex::new(child);
        let (done, is_done) = sync_channel::<()>(1);
        let (read, late) = std::thread::scope(|scope| {
            if let Some(mut stdin) = stdin {
                // A compiler that has given up does not read on; its answer says why.
                scope.spawn(move || stdin.write_all(component));
            }
            let child = &child;
            let late = scope.spawn(move || match is_done.recv_timeout(limits.wall_clock) {
                Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {
                    // It may have ended this very moment.
                    let _ = lock(child).kill();
                    true
                }
                _ => false,
            });
            let mut answer = Vec::new();
            let most = limits.code_bytes as u64 + 2;
            let read = stdout.map_or(Ok(0), |out| out.take(most).read_to_end(&mut answer));
            if answer.len() as u64 == most {
                // It would wait for ever for somebody to take the rest.
                let _ = lock(child).kill();
            }
            let _ = done.send(());
            (read.map(|_| answer), late.join().unwrap_or(false))
        });
        let status = lock(&child).wait().map_err(failed)?;
        let answer = read.map_err(failed)?;
        self.judge(answer, status, late)
    }

    fn judge(
        &self,
        mut answer: Vec<u8>,
        status: ExitStatus,
        late: bool,
    ) -> Result<Vec<u8>, ReadyError> {
        let limits = &self.limits;
        let exceeds = |bound, message| Err(ReadyError::TooMuch { bound, message });
        if late {
            let message = format!("it takes longer than {:?}", limits.wall_clock);
            return exceeds(bound::COMPILE_WALL_CLOCK, message);
        }
        if answer.len() > limits.code_bytes {
            let message = format!("its machine code has more than {} bytes", limits.code_bytes);
            return exceeds(bound::CODE, message);
        }
        match (status.code(), answer.first()) {
            (Some(0), Some(&CODE)) => {
                answer.remove(0);
                Ok(answer)
            }
            (Some(_), Some(&REFUSED)) => {
                answer.truncate(MESSAGE_BYTES as usize);
                let message = String::from_utf8_lossy(&answer[1..]).into_owned();
                Err(ReadyError::Compile(message))
            }
            _ => match status.signal() {
                Some(signal) if OUT_OF_TIME.contains(&signal) => {
                    let seconds = limits.cpu_seconds;
                    let message = format!("it takes more than {seconds} s of a processor");
                    exceeds(bound::COMPILE_CPU, message)
                }
                _ => {
                    let most = limits.memory_bytes;
                    let message = format!(
                        "it takes more than {most} bytes of memory, or the compiler fails ({status})"
                    );
                    exceeds(bound::COMPILE_MEMORY, message)
                }
            },
        }
    }
}

fn lock(child: &Mutex<Child>) -> std::sync::MutexGuard<'_, Child> {
    child.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a program does that was started as a compiler: its limits are arguments, the component is its input, and the
/// machine code its output.
pub fn compile_child<'a>(arguments: impl IntoIterator<Item = &'a OsStr>) -> ExitCode {
    let mut numbers = arguments
        .into_iter()
        .map(|text| text.to_str().and_then(|text| text.parse::<u64>().ok()));
    let (Some(Some(cpu_seconds)), Some(Some(memory_bytes))) = (numbers.next(), numbers.next())
    else {
        return ExitCode::FAILURE;
    };
    let (tag, answer) = match limit(cpu_seconds, memory_bytes)
        .map_err(|error| format!("no compiler can be bounded: {error}"))
        .and_then(|()| compile_input())
    {
        Ok(code) => (CODE, code),
        Err(message) => (REFUSED, message.into_bytes()),
    };
    let mut out = io::stdout().lock();
    let told = out.write_all(&[tag]).and_then(|()| out.write_all(&answer));
    match told.and_then(|()| out.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// The system's own bounds, for this process.
fn limit(cpu_seconds: u64, memory_bytes: u64) -> io::Result<()> {
    lower(Resource::CPU, cpu_seconds)?;
    // What is reserved and cannot be touched, as the engine's pool, does not count.
    lower(Resource::DATA, memory_bytes)?;
    // It writes no file, least of all of its memory.
    lower(Resource::FSIZE, 0)?;
    lower(Resource::CORE, 0)
}

/// The operator may have set less already, which a process cannot raise.
fn lower(resource: Resource, most: u64) -> io::Result<()> {
    let (_, hard) = resource.get()?;
    let most = most.min(hard);
    resource.set(most, most)
}

fn compile_input() -> Result<Vec<u8>, String> {
    let mut component = Vec::new();
    let most = UploadLimits::default().bytes as u64;
    let read = io::stdin().take(most).read_to_end(&mut component);
    read.map_err(|error| format!("the compiler was not given the component: {error}"))?;
    let engine = engine::compiler(&RunLimits::default()).map_err(|error| format!("{error:#}"))?;
    let code = engine.precompile_component(&component);
    code.map_err(|error| format!("{error:#}"))
}

/// A compilation in this process, which nothing bounds: for tests, and for tools that compile what their user wrote.
pub(crate) fn in_this_process(
    engine: &wasmtime::Engine,
    component: &[u8],
) -> Result<Vec<u8>, ReadyError> {
    let code = engine.precompile_component(component);
    code.map_err(|error| ReadyError::Compile(format!("{error:#}")))
}
