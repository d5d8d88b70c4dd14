// Package sdk is for authors of plugins in Go: implement env.Env, policy.Policy or encoder.Encoder and serve it.
//
//	func main() { sdk.ServeEnv(&reach{}) }
//
// The program is started by the host, never by hand; `srpo plugin test FOLDER` starts it and checks it.
package sdk

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"syscall"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"

	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/encoder"
	"github.com/srpo-dev/srpo/plugins/env"
	"github.com/srpo-dev/srpo/plugins/policy"
	"github.com/srpo-dev/srpo/plugins/serve"
)

// ServeEnv serves an environment until the host ends the process. It does not return.
func ServeEnv(impl env.Env) { run(plugins.Env, &env.Plugin{Impl: impl}) }

// ServePolicy serves a policy until the host ends the process. It does not return.
func ServePolicy(impl policy.Policy) { run(plugins.Policy, &policy.Plugin{Impl: impl}) }

// ServeEncoder serves an encoder until the host ends the process. It does not return.
func ServeEncoder(impl encoder.Encoder) { run(plugins.Encoder, &encoder.Plugin{Impl: impl}) }

func run(kind plugins.Kind, p plugin.Plugin) {
	if os.Getenv(plugins.Handshake.MagicCookieKey) != plugins.Handshake.MagicCookieValue {
		fmt.Fprintf(os.Stderr, "This program is an srpo %s plugin: the host starts it. Check it with: srpo plugin test FOLDER\n", kind)
		os.Exit(1)
	}
	lifeline()
	serve.Heartbeat()
	// Ctrl-C in a terminal reaches the whole foreground group; when to stop is the host's decision.
	signal.Ignore(os.Interrupt)
	// go-plugin puts pipes over gRPC in the place of stdout and stderr; what is written to them just before the end is lost, and a plugin's last words are
	// what its user needs. So the first call brings the real stderr back, for both: the host keeps it as the plugin's log.
	stderr := os.Stderr
	var once sync.Once
	restore := func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
		once.Do(func() { os.Stdout, os.Stderr = stderr, stderr })
		return next(ctx, req)
	}
	plugin.Serve(&plugin.ServeConfig{
		HandshakeConfig:  plugins.Handshake,
		VersionedPlugins: map[int]plugin.PluginSet{plugins.Protocol: {string(kind): p}},
		GRPCServer: func(opts []grpc.ServerOption) *grpc.Server {
			return grpc.NewServer(append(append(opts, serve.Options()...), grpc.ChainUnaryInterceptor(restore))...)
		},
		Logger: hclog.New(&hclog.LoggerOptions{Output: os.Stderr, Level: hclog.Warn, JSONFormat: true}),
	})
}

// lifeline kills the plugin's process group as soon as the host is gone, however it went: the host holds the other end of a pipe, and the kernel closes
// it even after SIGKILL. Pdeathsig would not do: it follows the thread that started the plugin, not the process.
func lifeline() {
	fd, err := strconv.Atoi(os.Getenv(plugins.LifelineEnv))
	if err != nil {
		return // started by something else than srpo's supervisor, a test for example
	}
	syscall.CloseOnExec(fd)
	pipe := os.NewFile(uintptr(fd), "lifeline")
	go func() {
		_, _ = io.Copy(io.Discard, pipe)
		if pid := os.Getpid(); syscall.Getpgrp() == pid {
			_ = syscall.Kill(-pid, syscall.SIGKILL)
		}
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	}()
}
