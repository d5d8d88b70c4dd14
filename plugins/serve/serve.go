// Package serve holds the gRPC options with which both sides of the contract must be run: message limits, and interceptors that keep errors whole.
package serve

import (
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/internal/wire"
)

// Options are the server's options.
func Options() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.UnaryInterceptor(wire.Unary), grpc.StreamInterceptor(wire.Stream),
		grpc.MaxRecvMsgSize(plugins.MaxMessage), grpc.MaxSendMsgSize(plugins.MaxMessage),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: time.Second, PermitWithoutStream: true}),
	}
}

// DialOptions are the client's options.
func DialOptions() []grpc.DialOption {
	return []grpc.DialOption{
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(plugins.MaxMessage), grpc.MaxCallSendMsgSize(plugins.MaxMessage)),
	}
}
