// Package sdk is for authors of plugins in Go. Implement [Sim], env.Env, policy.Policy or encoder.Encoder and
// serve it:
//
//	func main() { sdk.ServeSim(sdk.SimSpec{...}) }
//
// An env made of [Sim] lanes needs this package alone. The host starts the program; to check it, run `srpo plugin
// test FOLDER`.
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
		fmt.Fprintf(os.Stderr,
			"This program is an srpo %s plugin, which the host starts. To check it, run: srpo plugin test FOLDER\n",
			kind)
		os.Exit(1)
	}
	lifeline()
	serve.Heartbeat()
	// Ctrl-C in a terminal reaches the whole foreground group, and the host decides when a plugin stops.
	signal.Ignore(os.Interrupt)
	// go-plugin replaces stdout and stderr by pipes over gRPC, which lose what is written just before the process
	// ends. The user needs exactly these lines, so the first call restores the real stderr for both. The host
	// keeps it as the log.
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

// lifeline kills the plugin's process group as soon as the host is gone. The host has the other end of a pipe,
// which the kernel closes even after SIGKILL. Pdeathsig does not work: it follows the thread that started the
// plugin.
func lifeline() {
	fd, err := strconv.Atoi(os.Getenv(plugins.LifelineEnv))
	if err != nil {
		return // not started by srpo's supervisor, but by a test for example
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
