package supervise

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/srpo-dev/srpo/plugins"
)

// script is a helper program, a line of shell that writes its reports to descriptor 4.
func script(t *testing.T, text string) Program {
	t.Helper()
	return Program{
		Launch: Launch{Kind: plugins.Encoder, Name: "toy", Argv: []string{"/bin/sh", "-c", text}},
		Log:    filepath.Join(t.TempDir(), "logs", "toy.log"),
	}
}

func TestProgramReports(t *testing.T) {
	p := script(
		t,
		`echo printed; echo '{"say":"hello"}' >&4; echo '{"phase":"working","done":1,"total":3,"note":"slowly"}' `+
			`>&4; echo '{"result":{"file":"x"}}' >&$SRPO_REPORT_FD`,
	)
	var got []Report
	p.OnReport = func(r Report) { got = append(got, r) }
	result, err := p.Run(context.Background())
	require.NoError(t, err)
	require.JSONEq(t, `{"file":"x"}`, string(result))
	require.Len(t, got, 3)
	require.Equal(t, "hello", got[0].Say)
	require.Equal(t, Report{Phase: "working", Done: 1, Total: 3, Note: "slowly"}, got[1])
	log, err := os.ReadFile(p.Log)
	require.NoError(t, err)
	require.Contains(t, string(log), "out  printed")
}

func TestProgramFailures(t *testing.T) {
	for name, c := range map[string]struct {
		text, message, hint, detail string
		kind                        plugins.ErrorKind
	}{
		"a reported error": {`echo '{"error":{"kind":"not found","message":"no ` +
			`weights","place":"folder","hint":"download them"}}' >&4; exit 1`, "folder: no weights", "download them",
			"", plugins.NotFound},
		"an unknown kind": {`echo '{"error":{"kind":"odd","message":"hm","place":"","hint":"look"}}' >&4; exit 1`,
			"hm", "look", "", plugins.Internal},
		"a crash": {`echo 'ImportError: torch' >&2; exit 3`, "encoder toy: it exited with status 3",
			"its output is in ", "ImportError: torch", plugins.Unavailable},
		"killed": {`kill -9 $$`, "was killed by signal 9", "out of memory", "", plugins.Unavailable},
		"no result": {`echo bye >&2`, "it ended without a result", "its output is in ", "bye",
			plugins.Corrupt},
		"no JSON": {`echo '{"result"' >&4`, "it ended without a result", "", `not a report: {"result"`,
			plugins.Corrupt},
		"a result, then dead": {`echo '{"result":{}}' >&4; exit 9`, "exited with status 9", "", "",
			plugins.Unavailable},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := script(t, c.text).Run(context.Background())
			require.ErrorContains(t, err, c.message)
			var e *plugins.Error
			require.True(t, errors.As(err, &e))
			require.Equal(t, c.kind, e.Kind)
			require.Contains(t, e.Hint, c.hint)
			require.Contains(t, e.Detail, c.detail)
		})
	}
	p := script(t, "")
	p.Argv = []string{"/nonexistent/program"}
	_, err := p.Run(context.Background())
	require.Equal(t, plugins.NotFound, plugins.KindOf(err))
}

// The children of a program end with it, also one in another session that holds the report pipe.
func TestProgramLeavesNobody(t *testing.T) {
	p := script(t, `setsid sleep 300 & sleep 300 & echo '{"say":"'$!'"}' >&4; echo '{"result":{}}' >&4`)
	pid := 0
	p.OnReport = func(r Report) {
		if r.Say != "" {
			pid, _ = strconv.Atoi(r.Say)
		}
	}
	_, err := p.Run(context.Background())
	require.NoError(t, err)
	requireGone(t, pid)
}

func TestProgramStops(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"when asked": {`trap 'exit 5' TERM; echo '{"say":"ready"}' >&4; while :; do sleep 0.02; done`,
			"stopped: enough"},
		"and says why": {`trap 'echo "{\"error\":{\"kind\":\"canceled\",\"message\":\"saved at step 3\"}}" ` +
			`>&4; exit 1' TERM; echo '{"say":"ready"}' >&4; while :; do sleep 0.02; done`, "saved at step 3"},
		"when it will not": {`trap '' TERM; echo '{"say":"ready"}' >&4; while :; do sleep 0.02; done`,
			"stopped: enough"},
		"before it started": {`:`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithCancelCause(context.Background())
			defer cancel(nil)
			p := script(t, c.text)
			p.Grace = 300 * time.Millisecond
			var once sync.Once
			p.OnReport = func(r Report) {
				if strings.Contains(r.Say, "ready") {
					once.Do(func() { cancel(errors.New("enough")) })
				}
			}
			if c.want == "" {
				cancel(errors.New("enough"))
			}
			_, err := p.Run(ctx)
			require.Equal(t, plugins.Canceled, plugins.KindOf(err))
			require.ErrorContains(t, err, c.want)
		})
	}
}
