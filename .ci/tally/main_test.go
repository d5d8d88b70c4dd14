package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const goResults = `<testsuites>
	<testsuite name="a">
		<testcase classname="a" name="TestLeaf"/>
		<testcase classname="a" name="TestParent/one"/>
		<testcase classname="a" name="TestParent/two"><failure/></testcase>
		<testcase classname="a" name="TestParent"><failure/></testcase>
		<testcase classname="a" name="TestSkipped"><skipped/></testcase>
	</testsuite>
	<testsuite name="b"><testcase classname="b" name="TestB"/></testsuite>
	<testsuite name="c"><testcase classname="" name="TestMain"><failure/></testcase></testsuite>
</testsuites>`

func TestGoCountsLeaves(t *testing.T) {
	c, err := junit([]byte(goResults))
	require.NoError(t, err)
	require.Equal(t, 3, c.Passed)
	require.Equal(t, []string{"a.TestParent/two", "c.TestMain"}, c.Failed)
	require.Equal(t, []string{"a.TestSkipped"}, c.Skipped)
}

func TestNothingRanIsAFailure(t *testing.T) {
	_, err := junit([]byte(`<testsuites><testsuite name="pytest"></testsuite></testsuites>`))
	require.Error(t, err)
}

func TestJUnit(t *testing.T) {
	c, err := junit([]byte(`<testsuites><testsuite><testcase classname="m" name="good"/>
		<testcase classname="m" name="bad"><failure>x</failure></testcase>
		<testcase classname="m" name="bad"><error/></testcase>
		<testcase classname="m" name="broken"><error/></testcase>
		<testcase classname="m" name="not"><skipped/></testcase></testsuite></testsuites>`))
	require.NoError(t, err)
	require.Equal(t, 1, c.Passed)
	require.Equal(t, []string{"m.bad", "m.broken"}, c.Failed)
	require.Equal(t, []string{"m.not"}, c.Skipped)
}

func TestPlugin(t *testing.T) {
	var c Counts
	var out bytes.Buffer
	require.NoError(t,
		pluginTest([]byte(`{"kind":"env","name":"reach","checks":[{"part":"messages","check":"good","outcome":"pass"},
		{"part":"messages","check":"bad","outcome":"fail","message":"why"},
		{"part":"process","check":"other","outcome":"skip","message":"no expert"}]}`),
			&out, &c))
	require.Equal(t, 1, c.Passed)
	require.Equal(t, []string{"env reach: bad (messages)"}, c.Failed)
	require.Equal(t, []string{"env reach: other (process): no expert"}, c.Skipped)
	require.Contains(t, out.String(), "why")
	require.Error(t, pluginTest([]byte(`{"checks":[]}`), &out, &c))
}

func TestSum(t *testing.T) {
	dir := t.TempDir()
	say := func(args ...string) (string, error) {
		var out bytes.Buffer
		err := run(args, &out, dir)
		return out.String(), err
	}
	results := filepath.Join(t.TempDir(), "go.xml")
	require.NoError(t, os.WriteFile(results, []byte(goResults), 0o600))
	_, err := say("sum")
	require.Error(t, err, "nothing was counted")
	_, err = say("junit", "go", results)
	require.ErrorIs(t, err, errFailed)
	for _, args := range [][]string{{"check", "go", "1"}, {"check", "vet", "0"}, {"check", "fmt", "2"}} {
		_, err = say(args...)
		require.NoError(t, err)
	}
	out, err := say("sum")
	require.ErrorIs(t, err, errFailed)
	// TestLeaf, TestParent/one, TestB, vet; TestParent/two, c, fmt
	require.True(t, strings.HasSuffix(out, "\n4 passed, 3 failed\n"), out)
	require.NoError(t, os.Remove(filepath.Join(dir, "go.json")))
	require.NoError(t, os.Remove(filepath.Join(dir, "fmt.json")))
	out, err = say("sum")
	require.NoError(t, err)
	require.Contains(t, out, "1 passed, 0 failed")
}

// A step whose command failed although all of its tests passed is a failure.
func TestStatusCounts(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, note(dir, Counts{Name: "libero", Passed: 7}))
	require.NoError(t, check(dir, "libero", 1))
	var out bytes.Buffer
	require.Error(t, sum(dir, &out))
	require.Contains(t, out.String(), "7 passed, 1 failed")
}
