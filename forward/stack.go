package forward

// stackRoom is what MakeRoom asks for, in bytes: with what the runtime keeps free it
// makes a stack of 8 KiB. To write a record of TLS takes that much anyway.
const stackRoom = 6 << 10

// MakeRoom has the stack of the calling goroutine grow at once to what a connection
// needs. A stack begins with 2 KiB and doubles, and each time all frames on it are
// moved: three times for each goroutine of each connection, a tenth of what opening
// one costs. At the start of a goroutine there is nothing to move yet.
func MakeRoom() {
	var room [stackRoom]byte
	touch(&room)
}

//go:noinline
func touch(room *[stackRoom]byte) { room[0] = 1 }
