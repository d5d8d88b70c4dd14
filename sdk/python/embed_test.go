package pythonsdk

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io/fs"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	goplugin "github.com/hashicorp/go-plugin"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"

	"github.com/srpo-dev/srpo/plugins"
	"github.com/srpo-dev/srpo/plugins/arena"
	"github.com/srpo-dev/srpo/plugins/encoder"
	"github.com/srpo-dev/srpo/plugins/env"
	"github.com/srpo-dev/srpo/plugins/serve"
	"github.com/srpo-dev/srpo/sdk/plugintest"
)

func TestFilesAreThePackage(t *testing.T) {
	var names []string
	require.NoError(t, fs.WalkDir(Files, ".", func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			require.True(t, strings.HasSuffix(path, ".py"), path)
			names = append(names, path)
		}
		return err
	}))
	onDisk, err := filepath.Glob("srpo_sdk/*.py")
	require.NoError(t, err)
	stubs, err := filepath.Glob("srpo_sdk/_proto/*.py")
	require.NoError(t, err)
	require.ElementsMatch(t, append(onDisk, stubs...), names)
	require.Contains(t, names, "srpo_sdk/_proto/env_pb2.py")
}

// python returns an interpreter with the packages that the kit needs; SRPO_TEST_PYTHON names one.
func python(t *testing.T) string {
	t.Helper()
	for _, candidate := range []string{os.Getenv("SRPO_TEST_PYTHON"), "python3"} {
		if candidate == "" {
			continue
		}
		if exec.Command(candidate, "-c", "import grpc, google.protobuf, numpy, cryptography").Run() == nil {
			return candidate
		}
	}
	t.Skip("no Python with grpcio, protobuf, numpy and cryptography; name one in SRPO_TEST_PYTHON")
	return ""
}

type dispenser struct {
	goplugin.NetRPCUnsupportedPlugin
}

func (dispenser) GRPCServer(*goplugin.GRPCBroker, *grpc.Server) error { return nil }
func (dispenser) GRPCClient(_ context.Context, _ *goplugin.GRPCBroker, cc *grpc.ClientConn) (any, error) {
	return cc, nil
}

// start runs a Python plugin under unmodified go-plugin, with the package as it is embedded. It returns the
// connection and a function that ends the plugin.
func start(t *testing.T, script string, a *arena.Arena) (*grpc.ClientConn, func()) {
	t.Helper()
	interpreter := python(t)
	script, err := filepath.Abs(script)
	require.NoError(t, err)
	path := t.TempDir()
	require.NoError(t, os.CopyFS(path, Files))

	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "localhost"}, DNSNames: []string{"localhost"},
		NotBefore: time.Now().
			Add(-time.Minute),
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	require.NoError(t, err)
	certificate := tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}

	lifelineRead, lifeline, err := os.Pipe()
	require.NoError(t, err)
	cmd := exec.Command(interpreter, script)
	cmd.Env = append(
		[]string{"PATH=" + os.Getenv("PATH")},
		"PYTHONPATH="+path,
		"PYTHONDONTWRITEBYTECODE=1",
		plugins.LifelineEnv+"="+strconv.Itoa(plugins.LifelineFD),
		"PLUGIN_CLIENT_CERT="+string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
	)
	cmd.ExtraFiles = []*os.File{lifelineRead}
	if a != nil {
		cmd.ExtraFiles = append(cmd.ExtraFiles, a.File())
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	client := goplugin.NewClient(&goplugin.ClientConfig{
		HandshakeConfig: plugins.Handshake, Plugins: goplugin.PluginSet{"it": dispenser{}}, Cmd: cmd,
		SkipHostEnv: true, Logger: hclog.NewNullLogger(), Stderr: os.Stderr,
		AllowedProtocols: []goplugin.Protocol{
			goplugin.ProtocolGRPC,
		}, GRPCDialOptions: serve.DialOptions(), StartTimeout: time.Minute,
		TLSConfig: &tls.Config{
			Certificates: []tls.Certificate{certificate},
			MinVersion:   tls.VersionTLS12,
			ServerName:   "localhost",
		},
	})
	ended := false
	end := func() {
		if !ended {
			ended = true
			client.Kill()
			lifeline.Close()
		}
	}
	t.Cleanup(end)
	rpc, err := client.Client()
	require.NoError(t, err)
	lifelineRead.Close()
	require.NoError(t, rpc.Ping())
	cc, err := rpc.Dispense("it")
	require.NoError(t, err)
	return cc.(*grpc.ClientConn), end
}

func shared(t *testing.T) *arena.Arena {
	a, err := arena.New(32 << 20)
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { a.Close() })
	return a
}

// The example passes every check of the contract through the host's client.
func TestExampleConforms(t *testing.T) {
	for _, mode := range []string{"arena", "bytes"} {
		t.Run(mode, func(t *testing.T) {
			var a *arena.Arena
			if mode == "arena" {
				a = shared(t)
			}
			cc, end := start(t, "../../examples/reach-python/plugin.py", a)
			ran := 0
			failed := plugintest.Run(
				context.Background(),
				plugintest.Env(env.NewClient(cc, a), nil),
				time.Minute,
				func(r plugintest.Result) {
					if r.Err != nil && !r.Skipped() {
						t.Errorf("%s: %v", r.Name, r.Err)
					} else if r.Err == nil {
						ran++
					}
				},
			)
			require.Zero(t, failed)
			require.Greater(t, ran, 8)
			end()
			require.Error(t, cc.Invoke(context.Background(), "/srpo.v1.Plugin/Info", nil, nil))
		})
	}
}

// An error in Python keeps its kind, place and hint in Go.
func TestErrorsKeepTheirParts(t *testing.T) {
	cc, _ := start(t, "tests/plugins/lab.py", nil)
	c := env.NewClient(cc, nil)
	ctx := context.Background()
	require.NoError(t, c.Configure(ctx, plugins.Config{Lanes: 1, WorldSize: 1}))
	_, err := c.Reset(ctx, env.Reset{Task: "lab/error"})
	require.NoError(t, err)
	_, err = c.Step(ctx, env.Step{Actions: plugins.Floats([]float32{0, 0, 0}, 1, 3)})
	var e *plugins.Error
	require.True(t, errors.As(err, &e))
	require.Equal(
		t,
		plugins.Error{
			Kind:    plugins.Exhausted,
			Message: "no more arms",
			Place:   "lab/error step 0, the cupboard",
			Hint:    "buy one",
		},
		*e,
	)
	_, err = c.Reset(ctx, env.Reset{Task: "lab/raise"})
	require.NoError(t, err)
	_, err = c.Step(ctx, env.Step{Actions: plugins.Floats(make([]float32, 9), 3, 3)})
	require.True(t, errors.As(err, &e))
	require.Equal(t, plugins.Internal, e.Kind)
	require.Contains(t, e.Detail, "the arm fell off")
}

// The host's client sends clips to Python through the arena.
func TestClipsThroughTheArena(t *testing.T) {
	a := shared(t)
	cc, _ := start(t, "tests/plugins/looker.py", a)
	c := encoder.NewClient(cc, a)
	ctx := context.Background()
	require.NoError(t, c.Configure(ctx, plugins.Config{WorldSize: 1}))
	clip := plugins.Bytes(make([]byte, 64*32*32*3), 64, 32, 32, 3)
	for i := range clip.Data {
		clip.Data[i] = 7
	}
	got, err := c.Encode(ctx, []plugins.Tensor{clip})
	require.NoError(t, err)
	require.Equal(t, [][]float32{{7, 7, 7, 64}}, got)
}
