package plugins

import (
	"errors"
	"fmt"
	"strings"
)

// ErrorKind is the kind of a failure. The exit code of srpo follows from it.
type ErrorKind int

// The kinds, in the order of srpo.v1.ErrorKind.
const (
	Unspecified ErrorKind = iota
	Invalid               // the input of the caller is wrong
	NotFound              // a file, task or camera does not exist
	Unsupported           // the plugin does not support the request
	Mismatch              // two sides do not match, such as policy and env
	Exhausted             // out of memory, disk or GPU memory
	Deadline              // a deadline expired
	Canceled              // the call was cancelled
	Unavailable           // the plugin's process is gone
	Corrupt               // a reply, file or package is malformed
	Internal              // a fault inside the plugin or the host
	Diverged              // a computation gave numbers that are not finite or unusable
)

var kindNames = [...]string{
	"error",
	"invalid",
	"not found",
	"unsupported",
	"mismatch",
	"exhausted",
	"deadline",
	"canceled",
	"unavailable",
	"corrupt",
	"internal",
	"diverged",
}

func (k ErrorKind) String() string {
	if k < 0 || int(k) >= len(kindNames) {
		return "error"
	}
	return kindNames[k]
}

// Error is a failure with its place and a remedy. All parts but Err are kept over the wire.
type Error struct {
	Kind ErrorKind
	// Message states what failed.
	Message string
	// Place states where, e.g. "srpo.toml:12:1" or "env libero, episode 3/libero_object/0/5".
	Place string
	// Hint tells the user what to do.
	Hint string
	// Detail contains more for a developer, e.g. the last lines of the plugin's log.
	Detail string
	// Err is the cause. It is nil if the error came over the wire.
	Err error
}

// Errorf makes an Error without place and hint. A %w verb keeps the cause.
func Errorf(kind ErrorKind, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Kind: kind, Message: err.Error(), Err: errors.Unwrap(err)}
}

// WithPlace returns a copy of e with a place. It puts an outer place before an inner one, unless the inner one
// already begins with it, as both sides of a connection add the name of the plugin.
func (e *Error) WithPlace(format string, args ...any) *Error {
	c := *e
	p := fmt.Sprintf(format, args...)
	switch {
	case c.Place == p || strings.HasPrefix(c.Place, p+", "):
		return &c
	case c.Place != "":
		p += ", " + c.Place
	}
	c.Place = p
	return &c
}

// WithHint returns a copy of e with a hint.
func (e *Error) WithHint(format string, args ...any) *Error {
	c := *e
	c.Hint = fmt.Sprintf(format, args...)
	return &c
}

// WithDetail returns a copy of e with a detail.
func (e *Error) WithDetail(detail string) *Error {
	c := *e
	c.Detail = detail
	return &c
}

// Error returns place and message in one line, without hint and detail.
func (e *Error) Error() string {
	if e.Place != "" {
		return e.Place + ": " + e.Message
	}
	return e.Message
}

func (e *Error) Unwrap() error { return e.Err }

// AsError returns err as an *Error. It wraps any other error in one of kind [Internal], and returns nil for nil.
func AsError(err error) *Error {
	if err == nil {
		return nil
	}
	var e *Error
	if errors.As(err, &e) {
		if err.Error() != e.Error() { // wrapped in another message
			c := *e
			c.Message, c.Place, c.Err = err.Error(), "", err
			return &c
		}
		return e
	}
	return &Error{Kind: Internal, Message: err.Error(), Err: err}
}

// KindOf returns the kind of err: [Unspecified] for nil, and [Internal] for an error that is not an *Error.
func KindOf(err error) ErrorKind {
	if err == nil {
		return Unspecified
	}
	return AsError(err).Kind
}
