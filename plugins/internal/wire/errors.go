// Package wire converts the Go types of the contract to srpo.v1 messages and back. The clients and servers of the
// three kinds share it.
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

// errorTrailer is the trailer with the serialised srpo.v1.Error of a failed call.
const errorTrailer = "srpo-error-bin"

// maxText bounds each text of an error that a plugin sends, in bytes.
const maxText = 16 << 10

// unreadable is the start of gRPC's error about bytes that are not the expected message.
const unreadable = "grpc: failed to unmarshal the received message"

var codeOf = map[plugins.ErrorKind]codes.Code{
	plugins.Invalid: codes.InvalidArgument, plugins.NotFound: codes.NotFound, plugins.Unsupported: codes.Unimplemented,
	plugins.Mismatch: codes.FailedPrecondition, plugins.Exhausted: codes.ResourceExhausted,
	plugins.Deadline: codes.DeadlineExceeded,
	plugins.Canceled: codes.Canceled, plugins.Unavailable: codes.Unavailable,
	plugins.Corrupt: codes.DataLoss, plugins.Internal: codes.Internal,
	plugins.Diverged: codes.OutOfRange,
}

// Status converts an error to the status that a handler returns. set sends the trailer with all parts of the error.
func Status(err error, set func(metadata.MD) error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, context.Canceled) {
		return status.Error(codes.Canceled, err.Error())
	}
	e := plugins.AsError(err)
	raw, _ := proto.Marshal(
		&pb.Error{
			Kind:    pb.ErrorKind(e.Kind),
			Message: Text(e.Message),
			Place:   Text(e.Place),
			Hint:    Text(e.Hint),
			Detail:  Text(e.Detail),
		},
	)
	_ = set(metadata.Pairs(errorTrailer, string(raw)))
	code, ok := codeOf[e.Kind]
	if !ok {
		code = codes.Unknown
	}
	return status.Error(code, Text(e.Message))
}

// FromStatus converts the error of a call to a *plugins.Error.
func FromStatus(err error, trailer metadata.MD) error {
	if err == nil {
		return nil
	}
	if raw := trailer.Get(errorTrailer); len(raw) == 1 {
		var m pb.Error
		if proto.Unmarshal([]byte(raw[0]), &m) == nil && m.Kind > 0 && m.Kind <= pb.ErrorKind_ERROR_KIND_DIVERGED {
			return &plugins.Error{
				Kind:    plugins.ErrorKind(m.Kind),
				Message: messageText(m.Message),
				Place:   Text(m.Place),
				Hint:    Text(m.Hint),
				Detail:  Text(m.Detail),
			}
		}
	}
	st := status.Convert(err)
	e := &plugins.Error{Message: messageText(st.Message()), Err: err}
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
		e.Hint = fmt.Sprintf("send messages of at most %d MB", plugins.MaxMessage>>20)
	case codes.InvalidArgument:
		e.Kind = plugins.Invalid
	case codes.NotFound:
		e.Kind = plugins.NotFound
	default:
		e.Kind = plugins.Internal
		if why, ok := strings.CutPrefix(e.Message, unreadable); ok { // gRPC reports this, not the plugin
			e.Kind, e.Message = plugins.Corrupt, "the reply is not a message of the contract: "+strings.TrimPrefix(
				why, ": ")
			e.Hint = "generate the plugin's code from this version of srpo.v1, or use srpo's SDK"
		}
	}
	return e
}

// messageText is Text for the message of an error, which it replaces if it is empty.
func messageText(message string) string {
	if strings.TrimSpace(message) == "" {
		return "the plugin reported an error without a message"
	}
	return Text(message)
}

// Text makes a string safe for a terminal: valid UTF-8 of bounded length, without control characters other than
// newline and tab.
func Text(s string) string {
	if len(s) > 4*maxText { // limits the work below
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

// recovered converts a panic of an implementation to an error, so that the process survives it.
func recovered(r any) error {
	stack := strings.Split(strings.TrimSpace(string(debug.Stack())), "\n")
	if len(stack) > 24 {
		stack = stack[:24]
	}
	return plugins.Errorf(plugins.Internal, "panic: %v", r).WithDetail(strings.Join(stack, "\n"))
}

// Unary is the server interceptor that adds the trailer to errors and recovers from panics.
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

// Do makes a unary call and converts its error.
func Do[Q, R any](ctx context.Context, method func(context.Context, Q, ...grpc.CallOption) (R, error),
	req Q) (R, error) {
	var trailer metadata.MD
	r, err := method(ctx, req, grpc.Trailer(&trailer))
	return r, FromStatus(err, trailer)
}
