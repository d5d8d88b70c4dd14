package plugins

import (
	"errors"
	"fmt"
	"strings"
)

// ErrorKind says what sort of failure an error is.
type ErrorKind int

// The kinds, in the order of srpo.v1.ErrorKind.
const (
	Unspecified ErrorKind = iota
	Invalid               // the caller's input is wrong
	NotFound              // asked for something that is not there
	Unsupported           // this plugin does not do that
	Mismatch              // two sides do not fit
	Exhausted             // out of memory, disk or GPU memory
	Deadline              // a deadline passed
	Canceled              // the call was cancelled
	Unavailable           // the plugin's process is gone
	Corrupt               // a reply, a file or a package is not what it must be
	Internal              // a fault inside the plugin or the host
	Diverged              // numbers of a computation are not finite, or cannot be used
)

var kindNames = [...]string{"error", "invalid", "not found", "unsupported", "mismatch", "exhausted", "deadline", "canceled", "unavailable", "corrupt", "internal", "diverged"}

func (k ErrorKind) String() string {
	if k < 0 || int(k) >= len(kindNames) {
		return "error"
	}
	return kindNames[k]
}

// Error is a failure with its place and a remedy. It keeps all of its parts over the wire.
type Error struct {
	Kind ErrorKind
	// Message says what failed.
	Message string
	// Place says where: "srpo.toml:12:1", "env libero, episode 3/libero_object/0/5".
	Place string
	// Hint is what the user can do about it.
	Hint string
	// Detail is more for a person who looks, e.g. the plugin's own last words.
	Detail string
	// Err is the cause, where there is one on this side of the wire.
	Err error
}

// Errorf makes an Error; a %w verb keeps the cause.
func Errorf(kind ErrorKind, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Kind: kind, Message: err.Error(), Err: errors.Unwrap(err)}
}

// WithPlace returns a copy of e with a place; an outer place is put before an inner one, unless the inner one begins with it: both sides of a connection
// know the plugin's name and say it.
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

// WithHint returns a copy of e with a remedy.
func (e *Error) WithHint(format string, args ...any) *Error {
	c := *e
	c.Hint = fmt.Sprintf(format, args...)
	return &c
}

// WithDetail returns a copy of e with more for a person who looks.
func (e *Error) WithDetail(detail string) *Error {
	c := *e
	c.Detail = detail
	return &c
}

// Error gives message and place in one line; [Error.Hint] and [Error.Detail] are for whoever prints it.
func (e *Error) Error() string {
	if e.Place != "" {
		return e.Place + ": " + e.Message
	}
	return e.Message
}

func (e *Error) Unwrap() error { return e.Err }

// AsError returns err as an *Error, wrapping it as Internal when it is something else; nil stays nil.
func AsError(err error) *Error {
	if err == nil {
		return nil
	}
	var e *Error
	if errors.As(err, &e) {
		if err.Error() != e.Error() { // wrapped with more words
			c := *e
			c.Message, c.Place, c.Err = err.Error(), "", err
			return &c
		}
		return e
	}
	return &Error{Kind: Internal, Message: err.Error(), Err: err}
}

// KindOf returns the kind of err, Unspecified for nil and Internal for a foreign error.
func KindOf(err error) ErrorKind {
	if err == nil {
		return Unspecified
	}
	return AsError(err).Kind
}
