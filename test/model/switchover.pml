/*
 * Who may run the guest: the protocol of docs/switchover.md, for Spin. `npm run model` runs it.
 *
 * Both roles on a link that is lost and made anew at any step, with both processes dying at any step, the destination's
 * restarted, either side cancelling at any step, timers firing whenever they may, and people who do what docs/switchover.md
 * asks of them. A test compares the SOURCE(...) and DESTINATION(...) lines with the tables that the engine obeys.
 */

/*
 * Wrong on purpose, one at a time with -D; Spin has to refuse each (test/model/variants.ts says by which claim):
 * SOURCE_RESUMES_AFTER_GO, SOURCE_RECOVERS_BY_A_TIMER, SOURCE_RESUMES_WHEN_ANOTHER_ANSWERS, SOURCE_FORGETS_AT_GO,
 * KEPT_IS_NOT_TOLD, GO_IS_SAID_ONCE, ROUNDS_GO_ON_AT_A_RESTARTED_DESTINATION, WELCOME_IS_SAID_ONCE,
 * DESTINATION_ABANDONS_READY_ON_A_LOST_LINK, DESTINATION_RUNS_ON_A_LOST_LINK, OLD_CONNECTION_IS_READ.
 */

/* Bounds. Everything else is finite. */
#define LOSSES 2     /* connections lost, beside those that a death takes along */
#define DEATHS 2     /* processes that die */
#define RESTARTS 1   /* destination processes started in place of a dead one: they know nothing */
#define PENDING 1  /* connections that somebody else answers, say another process behind the same address */
#define SETTLES 1    /* calls of settle() that were of no use */
#define ROUNDS 2     /* rounds of pages, before the last pages and the devices, which go with the switchover */

mtype = { s_running, s_paused, s_handedOver, s_released, s_kept, s_unknown, s_recovered };
mtype = { d_receiving, d_ready, d_running, d_settled, d_untold, d_stranded, d_abandoned, d_recovered };
mtype = { m_hello, m_welcome, m_resumed, m_round, m_roundAck, m_switchover, m_ready, m_go, m_running, m_released, m_error };

mtype sOwn = s_running;
mtype dOwn = d_receiving;

/* The only ways to change them. An event that the state does not allow is an assertion that fails. */
#define SOURCE(from, event, to) assert(sOwn == s_##from); sOwn = s_##to
#define DESTINATION(from, event, to) assert(dOwn == d_##from); dOwn = d_##to

/* The link. Only the newest connection can carry bytes; what was written while it did may be read, or not. */
byte conn;                                    /* the number of the newest connection */
bool wire;                                    /* it carries bytes */
chan toD = [8] of { byte, mtype, mtype, byte };  /* connection, message, stage, round */
chan toS = [8] of { mtype, mtype, byte };        /* message, the destination's state, round */

/* The source's process. */
bool sAlive = true;
bool sUp;        /* has a connection, as far as it knows */
byte sRound = 1; /* the first one that is not acknowledged; ROUNDS + 1: all are */
bool sHeard;     /* the answer to `hello` was read on this connection */
bool sReady;     /* `ready` was read */
bool sTelling;   /* kept the guest, and has not heard that the destination knows */
bool sDone;      /* nothing more is to be said or heard */

/* The destination's process. */
bool dAlive = true;
bool dUp;
byte dConn;      /* the newest connection that said hello */
bool dKnows;     /* has heard of this migration */
byte dRound;     /* the round that comes next */
byte dHave;      /* one bit for each round that is in guest memory; the lowest one for what came with the switchover */
bool dStarted;   /* the VM's `resume` has succeeded */
#ifdef OLD_CONNECTION_IS_READ
bool dStale;     /* a `go` is still to be read from a dropped connection */
#endif

/* For the claims alone: no decision hangs on these. */
bool stable;     /* from here on the link stays, nobody dies, nobody changes their mind */
bool disturbed;  /* something that no protocol can settle by itself: a death, a time limit, a person */
bool helped;     /* a person had to settle it */
bool lost;       /* the last holder of the state died, or threw it away */

byte losses = LOSSES;
byte deaths = DEATHS;
byte restarts = RESTARTS;
byte pending connections = PENDING;
byte settles = SETTLES;

#define ALL ((1 << (ROUNDS + 1)) - 1)

#define S_FINAL (sOwn == s_released || sOwn == s_kept || sOwn == s_recovered)
#define D_FINAL (dOwn == d_settled || dOwn == d_untold || dOwn == d_stranded || dOwn == d_abandoned || dOwn == d_recovered)
#define S_RUNS (sAlive && (sOwn == s_running || sOwn == s_kept || sOwn == s_recovered))
#define D_RUNS (dAlive && (dOwn == d_running || dOwn == d_settled || dOwn == d_untold || dOwn == d_recovered))
#ifdef SOURCE_FORGETS_AT_GO
#define S_HOLDS (sAlive && sOwn != s_released && sOwn != s_handedOver && sOwn != s_unknown)
#else
#define S_HOLDS (sAlive && sOwn != s_released)
#endif
#define D_HOLDS (dAlive && dOwn != d_receiving && dOwn != d_abandoned && sOwn != s_kept)

/* A timer may fire whenever what it waits for does not come; once all is stable, only if it never will. */
#define S_TIMER (!stable || !dAlive)
#define S_COMES (sAlive && !sDone)
#define D_TIMER (!stable || !S_COMES)

/* What a person can know for certain: the destination that had the state is dead, or will never run the guest. */
#define DESTINATION_IS_DEAD (!dAlive || !dKnows || dOwn == d_abandoned || dOwn == d_stranded)

/* At most one side runs the guest. */
ltl neverTwoRunners { [] !(S_RUNS && D_RUNS) }

/* While a process that holds the state lives, the state is somewhere. */
ltl stateIsSomewhere { [] (S_HOLDS || D_HOLDS || lost) }

/* Where only links were lost, and came back in time, nobody has to help. */
ltl noHelpIsNeeded { [] (helped -> disturbed) }

/*
 * Once the link stays and nobody dies any more, somebody runs the guest and nobody waits. No fairness is assumed: every
 * run comes to an end. With the source dead and the VM's `resume` failed, the destination's embedder has the memory.
 */
#define NOBODY_CAN (lost || !sAlive && dOwn == d_stranded)
#define NOBODY_WAITS ((!sAlive || S_FINAL) && (!dAlive || !dKnows || D_FINAL))
ltl somebodyRuns { <> [] ((S_RUNS || D_RUNS || NOBODY_CAN) && NOBODY_WAITS) }

inline sourceSays(message, round) {
  if
  :: wire -> assert(nfull(toD)); toD!conn, message, sOwn, round
  :: else
  fi
}

inline destinationSays(message) {
  if
  :: wire && dConn == conn -> assert(nfull(toS)); toS!message, dOwn, dRound
  :: else
  fi
}

inline hangUp() {
  sUp = false;
  wire = false
}

/* After SOURCE(..., fail, kept): whoever may have heard of the switchover has to hear that it is off. */
#ifndef KEPT_IS_NOT_TOLD
#define TELL sTelling = conn > 0
#else
#define TELL skip
#endif

inline callOff() {
  TELL;
  if
  :: sUp -> sourceSays(m_error, 0)
  :: else
  fi
}

inline nextRound() {
  if
  :: sRound <= ROUNDS -> sourceSays(m_round, sRound)
  :: else
  fi
}

inline sourceReads() {
  toS?message, state, round;
  sHeard = true;
  if
  :: sOwn == s_kept ->
    if
    :: message == m_resumed -> sourceSays(m_error, 0)
    :: message == m_error -> sTelling = false; hangUp()
    :: else  /* said before it read that it is off */
    fi
  :: sOwn == s_running && message == m_welcome ->
#ifndef ROUNDS_GO_ON_AT_A_RESTARTED_DESTINATION
    sRound = 1;
#endif
    nextRound()
  :: sOwn == s_running && message == m_resumed ->
    assert(state == d_receiving && (round == sRound || round == sRound + 1));
    sRound = round;
    nextRound()
  :: sOwn == s_running && message == m_roundAck ->
    assert(round == sRound + 1);
    sRound = round;
    nextRound()
  :: sOwn == s_running && message == m_error -> SOURCE(running, fail, kept); hangUp()
  :: sOwn == s_paused && message == m_ready -> sReady = true
  :: sOwn == s_paused && message == m_error -> SOURCE(paused, fail, kept); hangUp()
  :: sOwn == s_handedOver && (message == m_running || message == m_resumed && state != d_ready) ->
    /* It may have died since: with the guest that it ran. */
    lost = lost || !D_HOLDS;
    SOURCE(handedOver, running, released);
    sourceSays(m_released, 0)
  :: sOwn == s_handedOver && message == m_resumed && state == d_ready ->
#ifndef GO_IS_SAID_ONCE
    sourceSays(m_go, 0)
#else
    skip
#endif
  :: sOwn == s_handedOver && message == m_error -> SOURCE(handedOver, giveUp, unknown); hangUp()
  fi
}

active proctype Source() {
  mtype message, state;
  byte round;
  do
  :: atomic { !sAlive || S_FINAL && !sTelling -> sDone = true; sUp = false; break }

  /* Connects, and connects again: also where another connection was lost. */
  :: atomic { sAlive && dAlive && !sUp && (sOwn == s_running || sOwn == s_handedOver || sTelling) ->
      conn++;
      assert(conn < 100);
      do
      :: nempty(toS) -> toS?message, state, round
      :: empty(toS) -> break
      od;
      wire = true;
      sUp = true;
      sHeard = false;
      sourceSays(m_hello, 0)
    }
  :: atomic { sAlive && !sUp && sOwn == s_handedOver && pending connections > 0 && !stable ->
      pending connections--;
      disturbed = true;
#ifndef SOURCE_RESUMES_WHEN_ANOTHER_ANSWERS
      SOURCE(handedOver, giveUp, unknown)
#else
      sOwn = s_kept
#endif
    }

  :: atomic { sAlive && sUp && nempty(toS) && (!S_FINAL || sTelling) -> sourceReads() }

  /* Every round is acknowledged: the switchover. */
  :: atomic { sAlive && sUp && sHeard && sOwn == s_running && sRound > ROUNDS ->
      SOURCE(running, pause, paused);
      sourceSays(m_switchover, 0)
    }
  :: atomic { sAlive && sUp && sOwn == s_paused && sReady ->
      disturbed = disturbed || dOwn == d_abandoned;  /* crossed with the cancel of its embedder */
      SOURCE(paused, go, handedOver);
      sourceSays(m_go, 0)
    }

  /* A cancel, or anything of its own that fails. */
  :: atomic { sAlive && !stable && sOwn == s_running -> SOURCE(running, fail, kept); callOff() }
  :: atomic { sAlive && !stable && sOwn == s_paused -> SOURCE(paused, fail, kept); callOff() }

  /* Notices that the link is gone. What was still to be read is not read any more. */
  :: atomic { sAlive && sUp && !wire ->
      sUp = false;
      if
      :: sOwn == s_paused -> SOURCE(paused, fail, kept); TELL
#ifdef SOURCE_RESUMES_AFTER_GO
      :: sOwn == s_handedOver -> sOwn = s_kept
#endif
      :: else
      fi
    }

  /* reconnectTimeoutMs, also without any connection at all; then settleTimeoutMs. */
  :: atomic { sAlive && !sUp && S_TIMER && sOwn == s_running ->
      disturbed = true;
      SOURCE(running, fail, kept)
    }
  :: atomic { sAlive && !sUp && S_TIMER && sTelling ->
      disturbed = true;
      sTelling = false
    }
  :: atomic { sAlive && !sUp && S_TIMER && sOwn == s_handedOver ->
      disturbed = true;
#ifndef SOURCE_RECOVERS_BY_A_TIMER
      SOURCE(handedOver, giveUp, unknown)
#else
      sOwn = s_recovered
#endif
    }

  /* The embedder. */
  :: atomic { sAlive && sOwn == s_unknown && (settles > 0 || stable && !DESTINATION_IS_DEAD) ->
      if
      :: DESTINATION_IS_DEAD || !stable -> settles--
      :: else
      fi;
      helped = true;
      SOURCE(unknown, settle, handedOver)
    }
  :: atomic { sAlive && sOwn == s_unknown && DESTINATION_IS_DEAD ->
      helped = true;
      SOURCE(unknown, recover, recovered)
    }
  :: atomic { sAlive && sOwn == s_handedOver && DESTINATION_IS_DEAD ->
      helped = true;
      SOURCE(handedOver, recover, recovered)
    }
  od
}

inline destinationAnswers() {
  if
  :: stage == s_running && !dKnows ->
    dKnows = true;
    dRound = 1;
    destinationSays(m_welcome)
  /* The source may not have read the first one: then it knows of a destination before this one. */
  :: stage == s_running && dKnows && dOwn == d_receiving && dRound == 1 ->
#ifndef WELCOME_IS_SAID_ONCE
    destinationSays(m_welcome)
#else
    destinationSays(m_resumed)
#endif
  :: dKnows && dOwn == d_receiving && (stage == s_kept || stage == s_running && dRound > 1) -> destinationSays(m_resumed)
  :: dKnows && dOwn == d_ready && stage != s_running -> destinationSays(m_resumed)
  :: stage == s_handedOver && (dOwn == d_running || dOwn == d_untold || dOwn == d_settled) -> destinationSays(m_resumed)
  /* An unknown migration, or one that is over here. */
  :: !dKnows && stage != s_running || dOwn == d_abandoned || dOwn == d_stranded || dOwn == d_recovered -> destinationSays(m_error)
  fi
}

inline destinationGoes() {
  if
  :: dOwn == d_abandoned  /* crossed with the embedder's cancel */
  :: else ->
    assert(dHave == ALL);
    DESTINATION(ready, go, running)
  fi
}

inline destinationReads() {
  if
  :: message == m_error ->
    if
    :: dOwn == d_receiving -> DESTINATION(receiving, fail, abandoned)
    :: dOwn == d_ready -> DESTINATION(ready, fail, abandoned)
    :: else
    fi;
    destinationSays(m_error)
  :: message == m_go -> destinationGoes()
  :: message == m_round && dOwn == d_receiving ->
    assert(round == dRound);
    dHave = dHave | (1 << round);
    dRound++;
    destinationSays(m_roundAck)
  :: message == m_switchover && dOwn == d_receiving ->
    assert(dRound == ROUNDS + 1);
    dHave = dHave | 1;
    DESTINATION(receiving, ready, ready);
    destinationSays(m_ready)
  :: message == m_released && dOwn == d_running -> DESTINATION(running, released, settled)
  /* Crossed with something that ended it here. */
  :: else -> assert(dOwn == d_abandoned || dOwn == d_untold && message == m_released)
  fi
}

active proctype Destination() {
  mtype message, stage;
  byte from, round;
  do
  :: atomic { stable && (!dAlive || sDone && empty(toD) && (!dKnows || D_FINAL)) -> dUp = false; break }

  /* While the guest is being started nothing is read. */
  :: atomic { dAlive && nempty(toD) && !(dOwn == d_running && !dStarted) ->
      toD?from, message, stage, round;
      if
      /* What a dropped connection has left over. */
      :: message != m_hello && !(from == dConn && dUp)
      /* The loss comes before it, and before all that is behind it. */
      :: !(wire && from == conn) ->
        if
        :: from == dConn -> dUp = false
        :: else
        fi;
#ifdef OLD_CONNECTION_IS_READ
        dStale = dStale || message == m_go && from == dConn
#endif
      :: message == m_hello ->
        assert(from > dConn);
        dConn = from;
        dUp = true;
        destinationAnswers()
      :: message != m_hello && from == dConn && dUp -> destinationReads()
      fi
    }
#ifdef OLD_CONNECTION_IS_READ
  :: atomic { dAlive && dStale -> dStale = false; destinationGoes() }
#endif

  :: atomic { dAlive && dOwn == d_running && !dStarted ->
      dStarted = true;
      destinationSays(m_running)
    }
  :: atomic { dAlive && dOwn == d_running && !dStarted && !stable ->
      disturbed = true;
      DESTINATION(running, strand, stranded);
      destinationSays(m_error)
    }

  /* Notices that the link is gone. */
  :: atomic { dAlive && dUp && !(wire && dConn == conn) ->
      dUp = false;
      if
#ifdef DESTINATION_ABANDONS_READY_ON_A_LOST_LINK
      :: dOwn == d_ready -> DESTINATION(ready, fail, abandoned)
#endif
#ifdef DESTINATION_RUNS_ON_A_LOST_LINK
      :: dOwn == d_ready -> dOwn = d_running
#endif
      :: else
      fi
    }

  /* reconnectTimeoutMs and settleTimeoutMs. `ready` has no timer. */
  :: atomic { dAlive && dKnows && !dUp && D_TIMER && dOwn == d_receiving ->
      disturbed = disturbed || S_COMES;
      DESTINATION(receiving, fail, abandoned)
    }
  :: atomic { dAlive && dStarted && !dUp && D_TIMER && dOwn == d_running ->
      DESTINATION(running, giveUp, untold)
    }

  /* A cancel by the embedder, or anything of its own that fails. From `ready` it may cross with `go`. */
  :: atomic { dAlive && dKnows && !stable && dOwn == d_receiving ->
      DESTINATION(receiving, fail, abandoned);
      destinationSays(m_error)
    }
  :: atomic { dAlive && !stable && dOwn == d_ready ->
      disturbed = disturbed || sOwn == s_handedOver;
      lost = lost || !S_HOLDS;
      DESTINATION(ready, fail, abandoned);
      destinationSays(m_error)
    }

  /* The embedder, where nobody comes to say more. */
  :: atomic { dAlive && dOwn == d_ready && !sAlive ->
      helped = true;
      dUp = false;
      DESTINATION(ready, recover, recovered)
    }
  :: atomic { dAlive && dOwn == d_ready && stable && sAlive && sDone && empty(toD) ->
      helped = true;
      DESTINATION(ready, fail, abandoned)
    }
  od
}

active proctype Environment() {
  do
  :: atomic { wire && losses > 0 -> losses--; wire = false }
  :: atomic { sAlive && deaths > 0 ->
      deaths--;
      disturbed = true;
      sAlive = false;
      wire = false;
      lost = lost || !D_HOLDS
    }
  :: atomic { dAlive && deaths > 0 ->
      deaths--;
      disturbed = true;
      dAlive = false;
      wire = false;
      lost = lost || !S_HOLDS
    }
  :: atomic { !dAlive && restarts > 0 ->
      restarts--;
      dOwn = d_receiving;
      dUp = false;
      dConn = 0;
      dKnows = false;
      dRound = 0;
      dHave = 0;
      dStarted = false;
      do
      :: nempty(toD) -> toD?_, _, _, _
      :: empty(toD) -> break
      od;
#ifdef OLD_CONNECTION_IS_READ
      dStale = false;
#endif
      dAlive = true
    }
  :: stable = true -> break
  od
}
