"""Sub-goals from a chat model behind any endpoint that speaks OpenAI's chat completions.

The key is read from the environment at the moment of the call and stands in nothing else: not in the
object, not in the run folder; whatever an endpoint answers is cleaned of it before it is shown.
"""

import json
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from email.message import Message
from http.client import HTTPException
from typing import Any

from sfv.planning.tasks import SubGoal, Task, check_sub_goals, sub_goal_from

MAX_REPLY_BYTES = 1_000_000
_AGAIN = (408, 409, 425, 429)
"""Statuses below 500 that may pass when asked again."""

_SHOWN = 160

SYSTEM = """You split a task for a robot or walker into sub-goals. Each sub-goal is one chunk of video.
Answer with a JSON list alone, one object for each chunk in order:
{"action": one of the allowed actions, "place": null or the number of an earlier place to come back to,
"waypoint": "" or the name of the way point that is reached at the end of this chunk, "back": true on the
way back}. Place 0 is the start, place k the end of chunk k. Name every way point exactly once."""


class ChatError(ValueError):
    """The endpoint gave no usable sub-goals; the message never holds the key."""


class _Retry(Exception):
    """What may pass when asked again."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the key to another host."""

    def redirect_request(
        self, req: Any, fp: Any, code: int, msg: str, headers: Message, newurl: str
    ) -> None:
        return None


class Chat:
    """A chat model as a sub-goal planner.

    Args:
        base_url: of the endpoint, e.g. "http://localhost:8000/v1"; /chat/completions is added.
        model: name of the chat model.
        key_variable: environment variable that holds the API key; null sends none.
        timeout_seconds: for one answer.
        max_attempts: calls for one task, malformed answers included.
        wait_seconds: before the second call; doubled after each.
        temperature: 0 is the most repeatable; null leaves it to the endpoint.

    Raises:
        ValueError: a number out of range, or a URL that is no http(s) address or holds a password.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        key_variable: str | None = "OPENAI_API_KEY",
        timeout_seconds: float | int = 60.0,
        max_attempts: int = 3,
        wait_seconds: float | int = 2.0,
        temperature: float | int | None = 0.0,
    ) -> None:
        if not re.match(r"https?://[^/@]+(/[^@?#]*)?$", base_url):
            raise ValueError(
                "base_url is no plain http(s) address; give e.g. http://localhost:8000/v1, and the key in "
                "the variable that key_variable names"
            )
        if timeout_seconds <= 0 or max_attempts < 1 or wait_seconds < 0:
            raise ValueError(
                f"timeout_seconds={timeout_seconds}, max_attempts={max_attempts}, "
                f"wait_seconds={wait_seconds}; allowed: > 0, >= 1, >= 0"
            )
        self.url = f"{base_url.rstrip('/')}/chat/completions"
        self.model, self.key_variable, self.temperature = model, key_variable, temperature
        self.timeout_seconds, self.max_attempts = timeout_seconds, max_attempts
        self.wait_seconds = wait_seconds

    def plan(self, task: Task, actions: Sequence[str]) -> list[SubGoal]:
        """Ask, and ask again where the answer is no list of sub-goals or the endpoint is busy.

        Raises:
            ChatError: refused, or no usable answer within `max_attempts`.
        """
        messages = [
            {"role": "system", "content": SYSTEM},
            {"role": "user", "content": question(task, actions)},
        ]
        fault = ""
        for attempt in range(self.max_attempts):
            if attempt:
                time.sleep(self.wait_seconds * 2 ** (attempt - 1))
            try:
                answer = self._ask(messages)
            except _Retry as error:
                fault = str(error)
                continue
            try:
                return read_sub_goals(answer, task, actions)
            except ValueError as error:
                fault = f"the answer is no list of sub-goals: {error}"
                messages = [
                    *messages[:2],
                    {"role": "assistant", "content": answer},
                    {"role": "user", "content": f"That cannot be used: {error}. Answer again."},
                ]
        raise ChatError(
            self._clean(
                f"{self.url} gave no sub-goals for task {task.id} in {self.max_attempts} attempts; the "
                f"last: {fault}"
            )
        )

    def _ask(self, messages: Sequence[dict[str, str]]) -> str:
        """One call; the content of the answer."""
        body: dict[str, Any] = {"model": self.model, "messages": list(messages)}
        if self.temperature is not None:
            body["temperature"] = self.temperature
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self.key_variable is not None:
            headers["Authorization"] = f"Bearer {self._key()}"
        request = urllib.request.Request(self.url, json.dumps(body).encode(), headers)
        opener = urllib.request.build_opener(_NoRedirect)
        try:
            with opener.open(request, timeout=self.timeout_seconds) as reply:
                content = reply.read(MAX_REPLY_BYTES + 1)
        except urllib.error.HTTPError as error:
            with error:
                told = self._clean(error.read(4096).decode("utf-8", "replace"))[:_SHOWN]
            reason = f"status {error.code} ({told!r})"
            if error.code in _AGAIN or error.code >= 500:
                raise _Retry(reason) from None
            raise ChatError(
                f"{self.url} refused: {reason}; check base_url, model and key"
            ) from None
        except (OSError, HTTPException) as error:  # no connection, time-out, cut off
            raise _Retry(f"no answer ({type(error).__name__}: {self._clean(str(error))})") from None
        return _content(content)

    def _key(self) -> str:
        key = os.environ.get(self.key_variable or "", "").strip()
        if not key:
            raise ChatError(
                f"the environment variable {self.key_variable} is empty; put the API key there, or set "
                "key_variable to null for an endpoint that needs none"
            )
        return key

    def _clean(self, text: str) -> str:
        """The text without the key."""
        key = os.environ.get(self.key_variable or "", "").strip()
        return text.replace(key, "***") if key else text


def question(task: Task, actions: Sequence[str]) -> str:
    """What a chat model is asked."""
    names = [waypoint.name for waypoint in task.waypoints if waypoint.shown]
    return (
        f"Task: {task.text}\nAllowed actions: {json.dumps(list(actions))}\n"
        f"Way points in order: {json.dumps(names)}"
    )


def read_sub_goals(answer: str, task: Task, actions: Sequence[str]) -> list[SubGoal]:
    """Read the JSON list of an answer, also inside a code fence or between words.

    Raises:
        ValueError: there is none, or it cannot be followed.
    """
    first, last = answer.find("["), answer.rfind("]")
    if first < 0 or last < first:
        raise ValueError("no JSON list")
    try:
        found = json.loads(answer[first : last + 1])
        goals = [sub_goal_from(goal) for goal in found]
    except (ValueError, TypeError) as error:
        raise ValueError(f"{type(error).__name__}: {str(error)[:_SHOWN]}") from error
    check_sub_goals(goals, task, actions)
    return goals


def _content(reply: bytes) -> str:
    if len(reply) > MAX_REPLY_BYTES:
        raise _Retry(f"an answer of more than {MAX_REPLY_BYTES} bytes")
    try:
        content = json.loads(reply)["choices"][0]["message"]["content"]
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise _Retry(f"no chat completion ({type(error).__name__})") from None
    if not isinstance(content, str):
        raise _Retry("a chat completion without text")
    return content
