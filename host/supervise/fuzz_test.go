package supervise

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/srpo-dev/srpo/plugins"
)

// FuzzHandshake tests any first line of a plugin's stdout: it is a handshake, or the error quotes it
// without control characters.
func FuzzHandshake(f *testing.F) {
	f.Add("1|1|unix|/tmp/x|grpc|" + strings.Repeat("A", 60))
	f.Add("1|9|unix|/tmp/x|grpc|")
	f.Add("Traceback \x1b[31m|1|2|3")
	f.Add("||||||")
	f.Fuzz(func(t *testing.T, line string) {
		version, certificate, err := parseHandshake(line)
		if err == nil {
			require.GreaterOrEqual(t, strings.Count(line, "|"), 3)
			return
		}
		require.False(t, certificate)
		require.Zero(t, version)
		l := newLeader(nil, "", nil, nil, nil)
		l.firstLine <- line
		p := &Process{
			launch: Launch{Kind: plugins.Env, Name: "x", Argv: []string{"x"}},
			leader: l,
			out:    &output{},
			s:      &Supervisor{},
		}
		e := p.explainStart(errStartTimeout)
		require.Equal(t, "env x", e.Place)
		require.NotEmpty(t, e.Hint)
		require.True(t, utf8.ValidString(e.Error()))
		require.NotContains(t, e.Error(), "\x1b")
		require.Less(t, len(e.Error()), 4*recentWidth)
	})
}

// FuzzPrinted tests any output of a plugin, in pieces: its last lines are kept, bounded, and safe for a
// terminal.
func FuzzPrinted(f *testing.F) {
	f.Add([]byte("a line\nand \x1b[31mcolours\x1b[0m\r 10%\r 20%\n"), 3)
	f.Add([]byte(`{"@level":"error","@message":"x","error":{"a":[1]}}`+"\n"), 100)
	f.Add([]byte(strings.Repeat("x", maxLine+5)), 1)
	f.Add([]byte(strings.Repeat("\n", maxLine)), maxLine)
	f.Fuzz(func(t *testing.T, data []byte, piece int) {
		o := &output{} // without a log file
		w := &lines{to: o, source: "err"}
		for rest := data; len(rest) > 0; {
			n := min(max(1, piece), len(rest))
			k, err := w.Write(rest[:n])
			require.NoError(t, err)
			require.Equal(t, n, k)
			require.LessOrEqual(t, len(w.rest), maxLine)
			rest = rest[n:]
		}
		w.flush()
		last := o.last(errorLines)
		require.LessOrEqual(t, strings.Count(last, "\n"), errorLines-1)
		require.LessOrEqual(t, len(last), errorLines*(3*recentWidth))
		require.True(t, utf8.ValidString(last))
		require.NotContains(t, last, "\x1b")
	})
}

// FuzzReports tests any reports of a helper program.
func FuzzReports(f *testing.F) {
	f.Add(
		[]byte(
			`{"say":"hello"}` + "\n" + `{"phase":"export","done":1,"total":3,"note":"x"}` + "\n" +
				`{"result":{"a":[1]}}` + "\n",
		),
	)
	f.Add(
		[]byte(
			`{"error":{"kind":"exhausted","message":"no memory","place":"x","hint":"less"}}` +
				"\nnonsense\n[]\n{\"result\":null}",
		),
	)
	f.Add([]byte(`{"error":{}}` + "\n" + `{"result":1e999}` + "\n\n\n"))
	f.Add([]byte(strings.Repeat("[", 1<<17)))
	f.Fuzz(func(t *testing.T, data []byte) {
		reports := 0
		result, reported := readReports(bytes.NewReader(data), &output{}, func(Report) { reports++ })
		require.LessOrEqual(t, reports, bytes.Count(data, []byte("\n"))+1)
		require.True(t, result == nil || json.Valid(result))
		if reported != nil {
			require.NotZero(t, reported.Kind)
			require.NotEmpty(t, reported.Message)
		}
	})
}
