// Package plugintest checks over real RPC that a plugin keeps the contract. The plugin can be written in any
// language.
//
// The author of a Go plugin calls [TestEnv], [TestPolicy] or [TestEncoder] from a test. For other languages, `srpo
// plugin test FOLDER` starts the plugin as the host does and runs the same checks. The error of a failed check
// states what was expected, and its hint what to do.
package plugintest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/arena"
	"github.com/srpo-dev/srpo/plugins/encoder"
	"github.com/srpo-dev/srpo/plugins/env"
	"github.com/srpo-dev/srpo/plugins/policy"
	"github.com/srpo-dev/srpo/plugins/serve"
)

// Check checks one rule of the contract.
type Check struct {
	// Name states the rule, e.g. "the same seed gives the same episode".
	Name string
	// Run returns nil, an error, or a [Skip].
	Run func(ctx context.Context) error
}

// Skip is the error of a check that does not apply. It states the reason.
type Skip string

func (s Skip) Error() string { return string(s) }

// Result is the result of a check.
type Result struct {
	Name string
	// Err is nil if the check passed, and a [Skip] if it does not apply.
	Err  error
	Took time.Duration
}

// Skipped reports whether the check does not apply.
func (r Result) Skipped() bool {
	var s Skip
	return errors.As(r.Err, &s)
}

// Run runs checks in order, each within the deadline, and reports each result. It returns the number of failed
// checks. It stops when the plugin has become unavailable.
func Run(ctx context.Context, checks []Check, deadline time.Duration, report func(Result)) (failed int) {
	for _, c := range checks {
		start := time.Now()
		cctx, cancel := context.WithTimeout(ctx, deadline)
		err := c.Run(cctx)
		if err != nil && cctx.Err() == context.DeadlineExceeded {
			err = fmt.Errorf("no answer within %v: %w", deadline, err)
		}
		cancel()
		r := Result{Name: c.Name, Err: err, Took: time.Since(start)}
		report(r)
		if err != nil && !r.Skipped() {
			failed++
			if plugins.KindOf(err) == plugins.Unavailable || ctx.Err() != nil {
				return failed
			}
		}
	}
	return failed
}

// TestEnv runs every check on an env that is not configured yet. It calls the env over gRPC within this process,
// once with the arena and once without.
func TestEnv(t *testing.T, impl func() env.Env, settings map[string]any) {
	both(t, func(t *testing.T, a *arena.Arena) []Check {
		c := env.NewClient(connect(t, func(s grpc.ServiceRegistrar) { env.Register(s, impl()) }), a)
		share(&c.ArenaFD, a)
		return Env(c, settings)
	})
}

// TestPolicy runs every check on a policy that is not configured yet. spec describes the env in which it acts.
func TestPolicy(t *testing.T, impl func() policy.Policy, settings map[string]any, spec plugins.EnvSpec) {
	both(t, func(t *testing.T, a *arena.Arena) []Check {
		c := policy.NewClient(connect(t, func(s grpc.ServiceRegistrar) { policy.Register(s, impl()) }), a)
		share(&c.ArenaFD, a)
		return Policy(c, settings, spec, t.TempDir())
	})
}

// TestEncoder runs every check on an encoder that is not configured yet.
func TestEncoder(t *testing.T, impl func() encoder.Encoder, settings map[string]any) {
	both(t, func(t *testing.T, a *arena.Arena) []Check {
		c := encoder.NewClient(connect(t, func(s grpc.ServiceRegistrar) { encoder.Register(s, impl()) }), a)
		share(&c.ArenaFD, a)
		return Encoder(c, settings)
	})
}

func share(fd *int, a *arena.Arena) {
	if a != nil {
		*fd = int(a.File().Fd())
	}
}

func both(t *testing.T, checks func(t *testing.T, a *arena.Arena) []Check) {
	for _, mode := range []string{"arena", "bytes"} {
		t.Run(mode, func(t *testing.T) {
			var a *arena.Arena
			if mode == "arena" {
				var err error
				if a, err = arena.New(32 << 20); err != nil {
					t.Skip(err)
				}
				t.Cleanup(func() { a.Close() })
			}
			for _, c := range checks(t, a) {
				t.Run(c.Name, func(t *testing.T) {
					ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
					defer cancel()
					err := c.Run(ctx)
					var skip Skip
					if errors.As(err, &skip) {
						t.Skip(skip)
					}
					if err != nil {
						t.Error(err)
						if e := plugins.AsError(err); e.Hint != "" {
							t.Log("hint:", e.Hint)
						}
					}
				})
			}
		})
	}
}

// connect serves a plugin over gRPC in memory and returns a connection to it.
func connect(t *testing.T, register func(grpc.ServiceRegistrar)) *grpc.ClientConn {
	t.Helper()
	l := bufconn.Listen(1 << 20)
	s := grpc.NewServer(serve.Options()...)
	register(s)
	go func() { _ = s.Serve(l) }()
	cc, err := grpc.NewClient(
		"passthrough:///plugin",
		append(serve.DialOptions(), grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) { return l.Dial() }))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cc.Close(); s.Stop() })
	return cc
}

// wants returns the error of a failed check, with a hint for the author of the plugin.
func wants(hint, format string, args ...any) error {
	return plugins.Errorf(plugins.Corrupt, format, args...).WithHint("%s", hint)
}

// refused returns nil if err is a refusal of one of the given kinds, and the error of a failed check otherwise.
func refused(err error, what string, kinds ...plugins.ErrorKind) error {
	if err == nil {
		return wants("return an error", "%s was accepted", what)
	}
	k := plugins.KindOf(err)
	for _, want := range kinds {
		if k == want {
			return nil
		}
	}
	return wants(fmt.Sprintf("raise an error of kind %q", kinds[0]),
		"%s gives an error of kind %q (%v), want %q", what, k, err, kinds[0])
}

// info checks the Info of any kind of plugin.
func info(p plugins.Plugin, kind plugins.Kind) Check {
	return Check{"Info names the plugin and documents its settings", func(ctx context.Context) error {
		i, err := p.Info(ctx)
		if err != nil {
			return err
		}
		if i.Kind != kind {
			return wants("serve the plugin with the function of its kind",
				"Info has kind %q, the plugin is served as %q", i.Kind, kind)
		}
		if i.Version == "" || i.Doc == "" {
			return wants("fill in version and doc", "Info has version %q and doc %q", i.Version, i.Doc)
		}
		if i.Protocol != plugins.Protocol {
			return wants("build it against this version of the SDK",
				"the plugin has revision %d of the contract, the host %d", i.Protocol, plugins.Protocol)
		}
		for _, s := range i.Settings {
			if s.Doc == "" {
				return wants("state the meaning and the unit", "setting %q has no doc", s.Name)
			}
			if _, err := s.Check(s.Default); err != nil {
				return wants("give a default that the setting allows", "the default of setting %q is not allowed: %v",
					s.Name, err)
			}
		}
		return nil
	}}
}

func resolve(ctx context.Context, p plugins.Plugin, given map[string]any) (plugins.Settings, error) {
	i, err := p.Info(ctx)
	if err != nil {
		return nil, err
	}
	return plugins.Resolve(i.Settings, given)
}
