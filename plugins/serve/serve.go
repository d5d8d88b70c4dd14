// Package serve has the gRPC options that both sides of the contract need: limits of messages, and interceptors
// that keep all parts of an error. It also sends the heartbeat of a plugin.
package serve

import (
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/internal/wire"
)

// Flow-control windows in bytes. With fixed windows, gRPC does not estimate the bandwidth with a ping for nearly
// every message, which is a quarter of all reads and writes of a short call, and a clip inside a message does not
// wait for the plugin several times.
const (
	streamWindow = 16 << 20
	connWindow   = 64 << 20
)

// Options returns the options of a server.
func Options() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.UnaryInterceptor(wire.Unary), grpc.StreamInterceptor(wire.Stream),
		grpc.MaxRecvMsgSize(plugins.MaxMessage), grpc.MaxSendMsgSize(plugins.MaxMessage),
		grpc.InitialWindowSize(streamWindow), grpc.InitialConnWindowSize(connWindow),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: time.Second, PermitWithoutStream: true}),
	}
}

// DialOptions returns the options of a client.
func DialOptions() []grpc.DialOption {
	return []grpc.DialOption{
		grpc.WithInitialWindowSize(streamWindow), grpc.WithInitialConnWindowSize(connWindow),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(plugins.MaxMessage),
			grpc.MaxCallSendMsgSize(plugins.MaxMessage)),
	}
}
