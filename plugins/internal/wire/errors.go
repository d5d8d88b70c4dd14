// Package wire turns the contract's Go types into srpo.v1 messages and back; the clients and servers of the three kinds share it.
package wire

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"strings"
	"unicode"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/srpo-dev/srpo/plugins"
	pb "github.com/srpo-dev/srpo/plugins/proto/srpov1"
)

// errorTrailer carries the serialised srpo.v1.Error of a failed call.
const errorTrailer = "srpo-error-bin"

// maxText bounds each text of an error that comes from a plugin: it is meant for a person.
const maxText = 16 << 10

// unreadable begins gRPC's error about bytes that are not the message that was to come.
const unreadable = "grpc: failed to unmarshal the received message"

var codeOf = map[plugins.ErrorKind]codes.Code{
	plugins.Invalid: codes.InvalidArgument, plugins.NotFound: codes.NotFound, plugins.Unsupported: codes.Unimplemented,
	plugins.Mismatch: codes.FailedPrecondition, plugins.Exhausted: codes.ResourceExhausted, plugins.Deadline: codes.DeadlineExceeded,
	plugins.Canceled: codes.Canceled, plugins.Unavailable: codes.Unavailable, plugins.Corrupt: codes.DataLoss, plugins.Internal: codes.Internal,
	plugins.Diverged: codes.OutOfRange,
}

// Status turns an error into what a handler returns, with the whole of it in the trailer that set sends.
func Status(err error, set func(metadata.MD) error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, context.Canceled) {
		return status.Error(codes.Canceled, err.Error())
	}
	e := plugins.AsError(err)
	raw, _ := proto.Marshal(&pb.Error{Kind: pb.ErrorKind(e.Kind), Message: Text(e.Message), Place: Text(e.Place), Hint: Text(e.Hint), Detail: Text(e.Detail)})
	_ = set(metadata.Pairs(errorTrailer, string(raw)))
	code, ok := codeOf[e.Kind]
	if !ok {
		code = codes.Unknown
	}
	return status.Error(code, Text(e.Message))
}

// FromStatus turns the error of a call into a *plugins.Error.
func FromStatus(err error, trailer metadata.MD) error {
	if err == nil {
		return nil
	}
	if raw := trailer.Get(errorTrailer); len(raw) == 1 {
		var m pb.Error
		if proto.Unmarshal([]byte(raw[0]), &m) == nil && m.Kind > 0 && m.Kind <= pb.ErrorKind_ERROR_KIND_DIVERGED {
			return &plugins.Error{Kind: plugins.ErrorKind(m.Kind), Message: words(m.Message), Place: Text(m.Place), Hint: Text(m.Hint), Detail: Text(m.Detail)}
		}
	}
	st := status.Convert(err)
	e := &plugins.Error{Message: words(st.Message()), Err: err}
	switch st.Code() {
	case codes.Unavailable:
		e.Kind, e.Message = plugins.Unavailable, "the plugin's process is gone or closed its connection"
	case codes.DeadlineExceeded:
		e.Kind, e.Message = plugins.Deadline, "the call did not answer within its deadline"
	case codes.Canceled:
		e.Kind, e.Message = plugins.Canceled, "the call was cancelled"
		if errors.Is(err, context.DeadlineExceeded) {
			e.Kind = plugins.Deadline
		}
	case codes.Unimplemented:
		e.Kind = plugins.Unsupported
	case codes.ResourceExhausted:
		e.Kind = plugins.Corrupt
		e.Hint = fmt.Sprintf("a message may have %d MB at most", plugins.MaxMessage>>20)
	case codes.InvalidArgument:
		e.Kind = plugins.Invalid
	case codes.NotFound:
		e.Kind = plugins.NotFound
	default:
		e.Kind = plugins.Internal
		if why, ok := strings.CutPrefix(e.Message, unreadable); ok { // gRPC's words on this side, not the plugin's
			e.Kind, e.Message = plugins.Corrupt, "the reply is no message of the contract: "+strings.TrimPrefix(why, ": ")
			e.Hint = "the plugin's generated code may be of another protocol version, or its SDK is not srpo's"
		}
	}
	return e
}

// words is Text for the message of an error: there is always something to read.
func words(message string) string {
	if strings.TrimSpace(message) == "" {
		return "the plugin reported an error without a message"
	}
	return Text(message)
}

// Text makes a string something for a terminal: valid UTF-8 of bounded length, without control characters but ends of lines and tabs.
func Text(s string) string {
	if len(s) > 4*maxText { // most of it would be cut off below
		s = s[:4*maxText]
	}
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) && r != '\n' && r != '\t' {
			return '?'
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
	if len(s) > maxText {
		s = strings.ToValidUTF8(s[:maxText], "") + " ..."
	}
	return s
}

// recovered turns a panic of an implementation into an error, so that one bad call costs itself and not the process.
func recovered(r any) error {
	stack := strings.Split(strings.TrimSpace(string(debug.Stack())), "\n")
	if len(stack) > 24 {
		stack = stack[:24]
	}
	return plugins.Errorf(plugins.Internal, "panic: %v", r).WithDetail(strings.Join(stack, "\n"))
}

// Unary is the server interceptor that gives errors their trailer and survives panics.
func Unary(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (resp any, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = recovered(r)
		}
		if err != nil {
			resp, err = nil, Status(err, func(md metadata.MD) error { return grpc.SetTrailer(ctx, md) })
		}
	}()
	return handler(ctx, req)
}

// Stream is Unary for streams.
func Stream(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = recovered(r)
		}
		err = Status(err, func(md metadata.MD) error { ss.SetTrailer(md); return nil })
	}()
	return handler(srv, ss)
}

// Do makes a unary call and turns its error.
func Do[Q, R any](ctx context.Context, method func(context.Context, Q, ...grpc.CallOption) (R, error), req Q) (R, error) {
	var trailer metadata.MD
	r, err := method(ctx, req, grpc.Trailer(&trailer))
	return r, FromStatus(err, trailer)
}
