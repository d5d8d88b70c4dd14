// Package serve holds the gRPC options with which both sides of the contract must be run: message limits, and interceptors that keep errors whole.
package serve

import (
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/internal/wire"
)

// Flow-control windows, bytes. They are fixed for two reasons: gRPC otherwise estimates the bandwidth with a ping for nearly every message, a quarter of all
// reads and writes of a short call, and a clip that travels inside a message would wait for the plugin's side many times over.
const (
	streamWindow = 16 << 20
	connWindow   = 64 << 20
)

// Options are the server's options.
func Options() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.UnaryInterceptor(wire.Unary), grpc.StreamInterceptor(wire.Stream),
		grpc.MaxRecvMsgSize(plugins.MaxMessage), grpc.MaxSendMsgSize(plugins.MaxMessage),
		grpc.InitialWindowSize(streamWindow), grpc.InitialConnWindowSize(connWindow),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: time.Second, PermitWithoutStream: true}),
	}
}

// DialOptions are the client's options.
func DialOptions() []grpc.DialOption {
	return []grpc.DialOption{
		grpc.WithInitialWindowSize(streamWindow), grpc.WithInitialConnWindowSize(connWindow),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(plugins.MaxMessage), grpc.MaxCallSendMsgSize(plugins.MaxMessage)),
	}
}
