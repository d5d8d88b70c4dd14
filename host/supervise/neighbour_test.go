package supervise

import (
	"crypto/tls"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// nobody is the id of another local user.
const nobody = 65534

// neighbour makes the attempts of another user. It prints a line per attempt, with the error or SUCCEEDED.
func neighbour(rest string) {
	args := strings.Split(rest, "|")
	socket, host, plugin := args[0], args[1], args[2]
	try := func(what string, err error) {
		if err == nil {
			fmt.Println(what + ": SUCCEEDED")
			return
		}
		fmt.Printf("%s: %v\n", what, err)
	}
	dial := func(certificates ...tls.Certificate) error {
		c, err := net.Dial("unix", socket)
		if err != nil {
			return err
		}
		t := tls.Client(
			c,
			&tls.Config{InsecureSkipVerify: true, Certificates: certificates, NextProtos: []string{"h2"}},
		) //nolint:gosec // an attacker trusts anybody
		if err = t.Handshake(); err == nil {
			_, _ = t.Write(
				[]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"),
			) // the preface of HTTP/2
			_, err = t.Read(
				make([]byte, 1),
			) // TLS 1.3 checks a client's certificate after its handshake
		}
		return err
	}
	try("connect", dial())
	own, _, err := newCertificate()
	if err != nil {
		panic(err)
	}
	try("connect with another certificate", dial(own))
	try("put a socket there", os.WriteFile(filepath.Join(filepath.Dir(socket), "mine"), nil, 0o600))
	_, err = os.ReadDir(filepath.Dir(socket))
	try("read the folder", err)
	for who, pid := range map[string]string{"host": host, "plugin": plugin} {
		// the arena is a memory file without a name, accessible only through these
		for _, what := range []string{"fd", "mem", "environ", "map_files"} {
			path := "/proc/" + pid + "/" + what
			f, err := os.Open(path)
			if err == nil {
				_, err = f.Readdirnames(1)
				if what == "mem" || what == "environ" {
					_, err = f.Read(make([]byte, 1))
				}
			}
			try("the "+who+"'s "+what, err)
		}
	}
}

// Another local user can access neither the socket of a plugin nor the arena. Where a mistaken chmod makes
// the socket accessible, the user lacks the host's certificate, and can neither call a plugin nor replace
// it.
func TestNeighbour(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can be two users")
	}
	s := supervisor(t, Options{ArenaBytes: 1 << 20})
	p, err := s.Start(t.Context(), launch(t, "good"))
	require.NoError(t, err)
	socket := ""
	require.NoError(t, filepath.WalkDir(s.folder.path, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type() == fs.ModeSocket {
			socket = path
		}
		return err
	}))
	require.NotEmpty(t, socket)

	program, err := os.Executable()
	require.NoError(t, err)
	binary, err := os.Open(program) // only root can access its folder, so it is run by its descriptor
	require.NoError(t, err)
	defer func() { _ = binary.Close() }()
	attempts := func() map[string]string {
		cmd := exec.Command("/proc/self/fd/3")
		cmd.ExtraFiles = []*os.File{binary}
		cmd.Dir = "/"
		cmd.Env = []string{
			modeEnv + "=neighbour:" + strings.Join(
				[]string{socket, fmt.Sprint(os.Getpid()), fmt.Sprint(p.PID())},
				"|",
			),
			"GORACE=atexit_sleep_ms=0",
		}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
		out, err := cmd.CombinedOutput()
		if err != nil && len(out) == 0 {
			t.Skipf("there is no second user here: %v", err)
		}
		require.NoError(t, err, string(out))
		m := map[string]string{}
		for _, line := range strings.Split(strings.TrimSpace(string(out)), "\n") {
			what, results, _ := strings.Cut(line, ": ")
			m[what] = results
		}
		require.Len(t, m, 12, string(out))
		return m
	}
	for what, results := range attempts() {
		require.Contains(t, results, "permission denied", what)
	}

	// With open permissions, the certificate is the last protection.
	for path := socket; path != filepath.Dir(s.folder.path); path = filepath.Dir(path) {
		require.NoError(t, os.Chmod(path, 0o777))
	}
	results := attempts()
	require.Regexp(t, "certificate required|bad certificate", results["connect"])
	require.Regexp(
		t,
		"unknown certificate|bad certificate|certificate required",
		results["connect with another certificate"],
	)
	for what, c := range results {
		if strings.HasPrefix(what, "the ") {
			require.Contains(t, c, "permission denied", what)
		}
	}
}
