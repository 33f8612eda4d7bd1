/*
 * Who may run the guest: the protocol of docs/switchover.md, for Spin. `npm run model` runs it.
 *
 * Two roles on a link that is lost and made anew at any step, with either process dying at any step, the destination's
 * restarted, a stop-and-copy given up at any step, an ownership authority whose answers are late or lost, either side
 * cancelling at any step, timers firing whenever they may, and people who do what docs/switchover.md asks of them, or get it
 * wrong. A stop-and-copy is an ordinary one or by post-copy: then one page stands for those that are missing at the destination, and
 * it comes when it is asked for, with the round that follows, or with both.
 *
 * A test compares the SOURCE(...) and DESTINATION(...) lines with the tables of packages/core/src/ownership, and
 * SOURCE_READS(...) and DESTINATION_READS(...) with packages/core/src/protocol/protocol-table.ts.
 *
 * With -D and a name, the protocol is wrong on purpose, and Spin has to refuse it: test/model/variants.ts lists the names, and
 * which claim finds each.
 */

/* Bounds. Everything else is finite. */
#ifndef TROUBLES
#define TROUBLES 6   /* of any kind, together: `troubles--` marks each */
#endif
#define RESTARTS 1   /* destination processes started in place of a dead one: they know nothing */
#ifndef ATTEMPTS
#define ATTEMPTS 2   /* stop-and-copies; the last one does not go back, its failure keeps the guest */
#endif
#define ROUNDS 2     /* rounds of pages while the guest runs, before the one of each stop-and-copy */

mtype = { s_running, s_paused, s_transferring, s_handedOver, s_released, s_kept, s_unknown, s_recovered };
mtype = { d_receiving, d_ready, d_asking, d_recovering, d_running, d_settled, d_untold, d_stranded, d_abandoned, d_recovered };
mtype = { m_hello, m_welcome, m_resumed, m_round, m_roundAck, m_switchover, m_ready, m_go, m_running, m_released, m_back, m_backAck, m_error, m_missing, m_whole };
mtype = { r_receiving, r_loading, r_ready, r_running, r_incomplete };  /* the state that `resumed` names */
mtype = { e_unknown, e_over };                           /* why an `error`: the migration is not known, or over */
mtype = { c_idle, c_outgoing, c_handedOver };            /* the claim on the source's VM */
mtype = { p_there, p_givenUp, p_missing, p_put, p_whole }; /* the page at the destination */

mtype sOwn = s_running;
mtype dOwn = d_receiving;

/* The only ways to change them. An event that the state does not allow is an assertion that fails. */
#define SOURCE(from, event, to) assert(sOwn == s_##from); sOwn = s_##to
#define DESTINATION(from, event, to) assert(dOwn == d_##from); dOwn = d_##to

/*
 * The newest connection. While it carries bytes they are read; what is left when it is lost is read, or not. Nothing of it is
 * kept past the next hello: whatever is read of a lost connection can as well be read before that hello is written.
 */
bool wire;
chan toD = [6] of { mtype, mtype, byte, byte };  /* message, stage of a hello, round, attempt */
chan toS = [6] of { mtype, mtype, byte };        /* message, r_ or e_, round, attempt or incarnation */

/* The source's process. */
bool sAlive = true;
bool sCalled;    /* has connected once */
bool sUp;        /* has a connection, as far as it knows */
bool sHeard;     /* the answer to `hello` was read on it */
byte sRound = 1; /* the first one that is not acknowledged */
byte sAttempt = 1;
byte sStep;      /* how far the stop-and-copy is */
bool sBack;      /* `back` is written on this connection, and not answered */
byte sIncarnation; /* the destination's, as its `welcome` said */
bool sGranted;   /* the authority has said yes */
bool sTelling;   /* kept the guest, and has not heard that the destination knows */
bool sDone;      /* nothing more is to be said or heard */
mtype claim = c_outgoing;
bool sSecond;    /* a later migration has the VM, and may run its guest */
bool sPostcopy;  /* the attempt is by post-copy */
bool sOwed = true; /* the page is in the queue: neither a round nor an answer has taken it */
bool sNamed;     /* `missing` was read, and not yet the `resumed` after it */
#ifdef STALE_READY_COUNTS
bool sStale;     /* a `ready` was read after going back */
#endif

/* sStep */
#define NOTHING 0
#define SENT 1      /* the last round is written */
#define ALL_THERE 2 /* and acknowledged */
#define SWITCHED 3  /* `switchover` is written */
#define READY 4     /* `ready` was read */
/* And with the guest running at the destination without its page: SENT and ALL_THERE of the round of what is missing, or */
#define WHOLE 5     /* `whole` was read before that round was acknowledged */

/* The destination's process. */
bool dAlive = true;
bool dUp;        /* has a connection, as far as it knows */
bool dThis;      /* that is the newest one: its hello was read */
bool dKnows;     /* has heard of this migration */
byte dRound;     /* the round that comes next */
byte dMemory;    /* the attempt whose last round is in guest memory */
byte dLoaded;    /* the attempt whose `switchover` was read and not given up; 0: none */
bool dStarted;   /* the VM's `resume` has succeeded */
/*
 * p_there: as the last round that had it. p_givenUp: nothing is behind it, and who reads it gets zeros. p_missing: who touches it
 * waits. p_put: it has come, and p_whole: `whole` is said.
 */
mtype dPage = p_there;
bool dServing;   /* the memory is being prepared so that who touches a missing page waits */
byte dAnswered;  /* the page is on its way over the newest connection, since it was asked for: as at the pause of this attempt */
#ifdef OLD_CONNECTION_IS_READ
byte dStale;     /* a `go` is still to be read from a dropped connection */
#endif

/* The ownership authority. */
byte aOwner;     /* 0: the source; else 1 + the incarnation of the destination that the guest was given to */
bool aAsked;     /* a call of `transfer` is on its way */
bool aVoid;      /* the transfer of this attempt is refused, for ever */

/* For the claims alone: no decision hangs on these. */
bool stable;     /* from here on the link stays, nobody dies, nobody changes their mind */
bool disturbed;  /* something that no protocol can settle by itself: a death, a time limit, a person */
bool helped;     /* a person had to settle something, and it was not that */
bool lost;       /* the last holder of the state died, or threw it away */

byte troubles = TROUBLES;
byte restarts = RESTARTS;

#define S_FINAL (sOwn == s_released || sOwn == s_kept || sOwn == s_recovered)
#define D_FINAL (dOwn == d_settled || dOwn == d_untold || dOwn == d_stranded || dOwn == d_abandoned || dOwn == d_recovered)
#define S_RUNS (sAlive && (sOwn == s_running || sOwn == s_kept || sOwn == s_recovered || sSecond))
#define D_RUNS (dAlive && (dOwn == d_running || dOwn == d_settled || dOwn == d_untold || dOwn == d_recovered))
#ifdef SOURCE_FORGETS_AT_GO
#define S_HOLDS (sAlive && sOwn != s_released && sOwn != s_handedOver && sOwn != s_unknown)
#else
#define S_HOLDS (sAlive && sOwn != s_released)
#endif
/* An attempt that was given up leaves no state of the guest: it has run on. */
#define D_IN_TIME (dLoaded == sAttempt && sOwn != s_running && sOwn != s_kept)
#define D_WAITS (dOwn == d_ready || dOwn == d_asking || dOwn == d_recovering)
#define D_LACKS (dPage == p_givenUp || dPage == p_missing)
#define D_HOLDS (dAlive && !D_LACKS && (D_RUNS || dOwn == d_stranded || D_WAITS && D_IN_TIME))

#define INCARNATION (RESTARTS - restarts)

/* Phases of packages/core/src/protocol/protocol-table.ts, where anything modelled may come. */
#define S_greeting (!sHeard)
#define S_pre_copy (sHeard && sOwn == s_running && !sBack)
#define S_going_back (sHeard && sOwn == s_running && sBack)
#define S_stop_and_copy (sHeard && sOwn == s_paused && sStep < SWITCHED)
#define S_loading (sHeard && sOwn == s_paused && sStep == SWITCHED)
#define S_handing_over (sHeard && sOwn == s_handedOver && sStep == NOTHING)
#define S_post_copy (sHeard && sOwn == s_handedOver && sStep != NOTHING)
#define D_greeting (!dThis)
#define D_receiving (dOwn == d_receiving && dLoaded == 0)
#define D_loading (dOwn == d_receiving && dLoaded != 0)
#define D_ready (dOwn == d_ready)
#define D_taking_over (dOwn == d_running && dPage == p_there || dOwn == d_untold || dOwn == d_recovered)
#define D_post_copy (dOwn == d_running && dPage != p_there)
/* Requests are answered from `switchover` on; after going back with the guest running already, until the connection is dropped. */
#define S_ANSWERS (sPostcopy && (sOwn == s_paused && sStep >= SWITCHED || sOwn == s_transferring || sOwn == s_handedOver || S_CLOSES))
#define S_CLOSES (sOwn == s_running && sPostcopy)
#define OF_NO_PAUSE 9
#define SOURCE_READS(phase, frame) (S_##phase && message == m_##frame)
#define DESTINATION_READS(phase, frame) (D_##phase && message == m_##frame)

/* The attempt, in a round that has the page; 0 in one that leaves it out. */
#define WITH_THE_PAGE sOwed * sAttempt

/* A timer may fire whenever something that it waits for does not come; once all is stable, only if it never will. */
#define S_TIMER (!stable || !dAlive)
#define S_COMES (sAlive && !sDone)
#define D_TIMER (!stable || !S_COMES)

/* People know for certain: the destination that had the state is dead, or will never run the guest. */
#define DESTINATION_IS_DEAD (!dAlive || !dKnows || dOwn == d_abandoned || dOwn == d_stranded)

/* At most one side runs the guest. */
ltl neverTwoRunners { [] !(S_RUNS && D_RUNS) }

/* While a process that holds the state lives, the state is somewhere. A destination that lacks a page does not hold it. */
ltl stateIsSomewhere { [] (S_HOLDS || D_HOLDS || lost) }

/* Where only links were lost, and came back in time, nobody has to help. */
ltl noHelpIsNeeded { !(!disturbed U helped) }

/*
 * Once the link stays and nobody dies any more, somebody runs the guest and nobody waits. No fairness is assumed: every
 * run comes to an end. With the source dead and a guest that could not be started, the destination's embedder has the memory. No guest
 * waits for a page that nobody will send.
 */
#define NOBODY_CAN (lost || !sAlive && dOwn == d_stranded)
#define NOBODY_WAITS ((!sAlive || S_FINAL) && (!dAlive || !dKnows || D_FINAL) && !(D_RUNS && D_LACKS))
ltl somebodyRuns { <> [] ((S_RUNS || D_RUNS || NOBODY_CAN) && NOBODY_WAITS) }

inline help() {
  helped = helped || !disturbed
}

inline sourceSays(what, r, a) {
  if
  :: wire -> assert(nfull(toD)); toD!what, 0, r, a
  :: else
  fi
}

inline destinationSays(what, s, n) {
  if
  :: wire && dThis -> assert(nfull(toS)); toS!what, s, n
  :: else
  fi
}

/* --- The source --- */

/* What the source knows of one connection. */
inline forgetConnection() {
  if
  :: sOwn == s_handedOver -> sStep = NOTHING
  :: else
  fi;
  sNamed = false
}

inline hangUp() {
  forgetConnection();
  sUp = false;
  sHeard = false;
  wire = false
}

/* Nothing of the stop-and-copy is asked for any more. */
inline overAtSource() {
  sRound = 0;
  sStep = NOTHING;
  sBack = false;
  /* A guest that stays here is one that lacks no page anywhere. */
  sOwed = sOwed || sOwn == s_kept;
  sPostcopy = sPostcopy && sOwn != s_kept
}

/* After SOURCE(..., fail, kept): a destination that may have heard of the migration has to hear that it is off. */
inline callOff() {
  overAtSource();
#ifndef KEPT_IS_NOT_TOLD
  sTelling = sCalled;
#endif
#ifdef CLAIM_ENDS_WITH_THE_CANCEL
  claim = c_idle;
#endif
  skip
}

inline callOffAndTell() {
  callOff();
  if
  :: sUp -> sourceSays(m_error, 0, 0)
  :: else
  fi
}

inline nextAttempt() {
  sStep = NOTHING;
  aVoid = false;
#ifndef ATTEMPTS_ARE_NOT_COUNTED
  sAttempt++;
#endif
  skip
}

/*
 * Pre-copy goes on: the guest runs. `back` follows all that was sent; or the connection is dropped, and the next hello says it. By
 * post-copy it always is (`closeToRequests`): answers that are on their way would be taken for pages of the next attempt.
 */
inline goBack() {
  SOURCE(paused, back, running);
  nextAttempt();
#ifdef ANSWERS_OUTLIVE_THEIR_ATTEMPT
  sPostcopy = false;
  sOwed = true;
#endif
  if
  :: sPostcopy
#ifndef BACK_IS_NOT_SAID
  :: !sPostcopy && sUp && sHeard ->
#ifndef BACK_ACK_IS_NOT_WAITED_FOR
    sBack = true;
#endif
    sourceSays(m_back, 0, sAttempt - 1)
#else
  :: !sPostcopy && sUp && sHeard
#endif
  :: !sPostcopy && sUp -> hangUp()
  :: !sPostcopy && !sUp
  fi
}

inline closeToRequests() {
  if
  :: sUp -> hangUp()
  :: else
  fi;
  sPostcopy = false;
#ifndef ANSWERS_ARE_NOT_OWED_AGAIN
  sOwed = true
#else
  skip
#endif
}

/* The same, where there is no connection over which to say it. */
inline goBackUntold() {
  if
  :: sAttempt < ATTEMPTS -> SOURCE(paused, back, running); nextAttempt()
  :: else -> SOURCE(paused, fail, kept); callOff()
  fi
}

inline nextRound() {
  if
  :: sRound <= ROUNDS -> sourceSays(m_round, sRound, 0)
  :: else
  fi
}

inline acknowledged() {
  assert(number == sRound + 1);
  sRound = number
}

inline granted() {
  SOURCE(transferring, go, handedOver);
  overAtSource();
  sGranted = true;
  if
  :: sUp && sHeard -> sourceSays(m_go, 0, sAttempt)
  :: else
  fi
}

/* The round of what is missing: with the page, unless it was asked for and has gone before. */
inline sendMissing() {
  sStep = SENT;
  sourceSays(m_round, 0, WITH_THE_PAGE);
  sOwed = false
}

inline nothingLeft() {
  if
  :: sStep == ALL_THERE -> release()
  :: else -> sStep = WHOLE
  fi
}

/* A definite no, or `withdrawn`: nothing of this attempt is asked again. */
inline refused() {
  SOURCE(transferring, refused, paused);
  if
  :: sAttempt < ATTEMPTS -> goBack()
  :: else -> SOURCE(paused, fail, kept); callOffAndTell()
  fi
}

inline notHere() {
#ifndef CLAIM_ENDS_WITH_THE_HAND_OVER
  claim = c_handedOver
#else
  claim = c_idle
#endif
}

inline release() {
  lost = lost || !D_RUNS;  /* its process may have died since, with the guest that it ran */
  SOURCE(handedOver, running, released);
  sPostcopy = false;
  sOwed = true;
  sStep = NOTHING;
  notHere();
  sourceSays(m_released, 0, 0)
}

inline sourceHearsError() {
  if
  :: sOwn == s_kept -> sTelling = false
  :: sOwn == s_running -> SOURCE(running, fail, kept); overAtSource()
  /* A process that was started anew has nothing of the guest: everything is sent again. */
  :: sOwn == s_paused && state == e_unknown -> goBackUntold()
  :: sOwn == s_paused && state == e_over -> SOURCE(paused, fail, kept); overAtSource()
  :: sOwn == s_transferring  /* the authority has the word */
  :: sOwn == s_handedOver -> SOURCE(handedOver, giveUp, unknown); notHere()
  fi;
  hangUp()
}

/* What the destination lacks, and nothing else. */
inline owesWhatIsNamed() {
  if
#ifndef MISSING_PAGES_ARE_NOT_OWED_AGAIN
  :: sPostcopy -> sOwed = sNamed
#endif
  :: else
  fi
}

inline sourceIsAnswered() {
  sHeard = true;
  if
  :: sOwn == s_running ->
    assert(state == r_receiving && (number == sRound || number == sRound + 1));
    sRound = number;
    nextRound()
  :: sOwn == s_paused && state == r_receiving ->
    assert(number == sRound);
    goBackUntold();  /* `switchover` was lost */
    hangUp()
  :: sOwn == s_paused && (state == r_loading || state == r_ready) ->
#ifndef ANSWERS_ARE_NOT_OWED_AGAIN_IN_A_PAUSE
    sOwed = true;  /* also what an answer has taken that was lost; what has come is dropped when it comes again */
#endif
    if
    :: state == r_ready -> sStep = READY
    :: else
    fi
  :: sOwn == s_handedOver && state == r_running -> release()
  :: sOwn == s_handedOver && state == r_incomplete ->
    assert(sPostcopy);
    owesWhatIsNamed();
    sendMissing()
  :: sOwn == s_handedOver && state == r_ready ->
    assert(sGranted);
    owesWhatIsNamed();
#ifndef GO_IS_SAID_ONCE
    sourceSays(m_go, 0, sAttempt)
#else
    skip
#endif
  :: else -> assert(false)
  fi
}

inline sourceReads() {
  toS?message, state, number;
  if
  :: message == m_error -> sourceHearsError()
  :: sOwn == s_kept && message != m_error ->
    if
    :: message == m_resumed -> sHeard = true; sourceSays(m_error, 0, 0)
    :: else  /* written before the destination read that it is off */
    fi
  :: sOwn != s_kept && message != m_error ->
    if
    :: SOURCE_READS(greeting, welcome) ->
      assert(sOwn == s_running);
      sHeard = true;
      sIncarnation = number;
#ifndef ROUNDS_GO_ON_AT_A_RESTARTED_DESTINATION
      sRound = 1;
#endif
      nextRound()
    :: SOURCE_READS(greeting, missing) -> sNamed = true
    :: SOURCE_READS(greeting, resumed) -> sourceIsAnswered(); sNamed = false
    :: SOURCE_READS(pre_copy, roundAck) -> acknowledged(); nextRound()
    :: SOURCE_READS(stop_and_copy, roundAck) -> acknowledged(); sStep = ALL_THERE
    :: SOURCE_READS(loading, ready) -> assert(number == sAttempt); sStep = READY
    :: SOURCE_READS(going_back, roundAck) -> acknowledged()
    :: SOURCE_READS(going_back, ready) ->
#ifdef STALE_READY_COUNTS
      sStale = true;
#endif
      skip  /* of the attempt that was given up */
    :: SOURCE_READS(going_back, backAck) -> assert(number == sAttempt - 1); sBack = false
    :: SOURCE_READS(handing_over, running) ->
      if
#ifndef RELEASED_BEFORE_WHOLE
      :: sPostcopy -> sendMissing()
#else
      :: sPostcopy -> release()
#endif
      :: !sPostcopy -> release()
      fi
    :: SOURCE_READS(post_copy, roundAck) ->
      if
      :: sStep == WHOLE -> release()
      :: else -> sStep = ALL_THERE
      fi
    :: SOURCE_READS(post_copy, whole) -> nothingLeft()
#ifdef STALE_READY_COUNTS
    :: message == m_ready && sStale && sOwn != s_running  /* the attempt's own is not missed */
#endif
    :: else -> assert(false)
    fi
  fi;
  message = 0; state = 0; number = 0
}

/* Called while the other process lives: the authority decides, not the caller's word. */
inline sourceAsksToRecover() {
  troubles--;
  disturbed = true;
  if
#ifndef RECOVER_DOES_NOT_WITHDRAW
  :: !sGranted && aOwner == 0 -> aVoid = true  /* `transfer` was not answered, so it is withdrawn first */
#endif
  :: else
  fi;
#ifdef SOURCE_RECOVERS_WITHOUT_ASKING
  aOwner = 0;
#endif
#ifdef SOURCE_RECOVERS_IN_POST_COPY_WITHOUT_ASKING
  if
  :: dPage == p_missing && dOwn == d_running -> aOwner = 0
  :: else
  fi;
#endif
  skip
}

active proctype Source() {
  mtype message, state;
  byte number;
  do
  :: atomic { !sAlive || S_FINAL && !sTelling ->
      sDone = true;
      sUp = false;
      if
      :: sOwn == s_kept || sOwn == s_recovered -> claim = c_idle
      :: else
      fi;
      break
    }

  /*
   * Connects, and connects again: also where another connection was lost. In the middle of stop-and-copy it goes back first, and
   * while the authority is asked that comes first.
   */
  :: atomic { sAlive && dAlive && !sUp && !S_CLOSES &&
      (sOwn == s_running || sOwn == s_paused && sStep >= SWITCHED || sOwn == s_handedOver || sTelling) ->
      do
      :: nempty(toS) -> toS?_, _, _
      :: nempty(toD) -> toD?_, _, _, _
      :: empty(toS) && empty(toD) -> break
      od;
      sCalled = true;
      sUp = true;
      sBack = false;
      wire = true;
      dThis = false;
      dAnswered = 0;
      toD!m_hello, sOwn, 0, sAttempt
    }
  /* Another process answers, say one behind the same address. */
  :: atomic { sAlive && !sUp && sOwn == s_handedOver && troubles > 0 && !stable ->
      troubles--;
      disturbed = true;
#ifndef SOURCE_RESUMES_WHEN_ANOTHER_ANSWERS
      SOURCE(handedOver, giveUp, unknown); notHere()
#else
      sOwn = s_kept
#endif
    }

  :: atomic { sAlive && sUp && nempty(toS) && (!S_FINAL || sTelling) && !S_CLOSES -> sourceReads() }
  :: atomic { sAlive && S_CLOSES -> closeToRequests() }

  /* Every round is acknowledged: stop-and-copy, by post-copy or not. */
  :: atomic { sAlive && sUp && S_pre_copy && !S_CLOSES && sRound > ROUNDS ->
      SOURCE(running, pause, paused);
      sPostcopy = true;
      sStep = ALL_THERE;
      if
      :: sOwed -> sourceSays(m_missing, 0, sAttempt)
      :: else
      fi
    }
  :: atomic { sAlive && sUp && S_pre_copy && !S_CLOSES && sRound > ROUNDS ->
      SOURCE(running, pause, paused);
      sStep = SENT;
#ifdef LAST_ROUND_IS_NOT_OWED_AGAIN
      if
      :: sAttempt > 1 -> sStep = ALL_THERE
      :: else -> sourceSays(m_round, sRound, WITH_THE_PAGE)
      fi
#else
      sourceSays(m_round, sRound, WITH_THE_PAGE)
#endif
    }
  :: atomic { sAlive && sUp && sOwn == s_paused && sStep == ALL_THERE ->
#ifdef STALE_READY_COUNTS
      sStep = (sStale -> READY : SWITCHED);
#else
      sStep = SWITCHED;
#endif
      sourceSays(m_switchover, 0, sAttempt)
    }

  /* The destination asks for the page, since somebody touches it there, and is answered. Nobody has to touch it. */
  :: atomic { sAlive && sUp && sHeard && wire && S_ANSWERS && dAlive && dThis && dUp && dPage == p_missing && dAnswered == 0 && !stable ->
      sOwed = false;
      dAnswered = (sOwn == s_running -> OF_NO_PAUSE : sAttempt)
    }

  /* The authority is asked, and answers; an answer that is lost is the Environment's. */
  :: atomic { sAlive && sUp && sHeard && sOwn == s_paused && sStep == READY ->
      assert(DESTINATION_IS_DEAD || dLoaded == sAttempt && dOwn != d_receiving);
      disturbed = disturbed || dOwn == d_abandoned;  /* crossed with the cancel of its embedder */
      SOURCE(paused, transfer, transferring);
      aAsked = true
    }
  :: atomic { sAlive && sOwn == s_transferring && aAsked ->
      aAsked = false;
      if
      :: !aVoid -> aOwner = 1 + sIncarnation; granted()
      :: aOwner == 0 -> aVoid = true; refused()
      fi
    }
  /* `withdraw`, where no answer has come: the transfer has happened, or never will. */
  :: atomic { sAlive && sOwn == s_transferring && !(aAsked && stable) ->
      if
      :: aOwner != 0 -> aAsked = false; granted()
      :: else ->
        aVoid = true;
#ifndef WITHDRAWN_IS_NOT_FINAL
        aAsked = false;
#endif
        refused()
      fi
    }
  :: atomic { sAlive && sOwn == s_transferring && !stable ->
      disturbed = true;
      SOURCE(transferring, giveUp, unknown);
      notHere();
      hangUp()
    }

  /* The bound of stop-and-copy has passed, whatever hangs. */
  :: atomic { sAlive && !stable && sOwn == s_paused && sAttempt < ATTEMPTS -> goBack() }
#ifdef SOURCE_RESUMES_WHILE_TRANSFERRING
  :: atomic { sAlive && !stable && sOwn == s_transferring && sAttempt < ATTEMPTS -> sOwn = s_paused; goBack() }
#endif
#ifdef SOURCE_GOES_BACK_AFTER_GO
  :: atomic { sAlive && !stable && sOwn == s_handedOver && sAttempt < ATTEMPTS -> sOwn = s_paused; goBack() }
#endif

  /* A cancel, or anything of its own that fails. */
  :: atomic { sAlive && !stable && sOwn == s_running -> SOURCE(running, fail, kept); callOffAndTell() }
  :: atomic { sAlive && !stable && sOwn == s_paused -> SOURCE(paused, fail, kept); callOffAndTell() }

  /* Notices that the link is gone. Nothing that was still to be read is read any more. */
  :: atomic { sAlive && sUp && !wire ->
#ifdef SOURCE_RESUMES_IN_POST_COPY
      if
      :: S_post_copy -> sOwn = s_kept
      :: else
      fi;
#endif
      forgetConnection();
      sUp = false;
      sHeard = false;
      if
      :: sOwn == s_paused && sStep < SWITCHED -> goBackUntold()
#ifdef SOURCE_RESUMES_AFTER_GO
      :: sOwn == s_handedOver -> sOwn = s_kept
#endif
      :: else
      fi
    }

  /* reconnectTimeoutMs, also without any connection at all; the bound of stop-and-copy; settleTimeoutMs. */
  :: atomic { sAlive && !sUp && S_TIMER && sOwn == s_running ->
      disturbed = true;
      SOURCE(running, fail, kept);
      overAtSource()
    }
  :: atomic { sAlive && !sUp && S_TIMER && sOwn == s_paused -> goBackUntold() }
  :: atomic { sAlive && !sUp && S_TIMER && sTelling ->
      disturbed = true;
      sTelling = false
    }
  :: atomic { sAlive && !sUp && S_TIMER && sOwn == s_handedOver ->
      disturbed = true;
#ifndef SOURCE_RECOVERS_BY_A_TIMER
      SOURCE(handedOver, giveUp, unknown); notHere()
#else
      sOwn = s_recovered
#endif
    }

  /* The embedder calls settle(): of use, or in vain. */
  :: atomic { sAlive && sOwn == s_unknown && (troubles > 0 || stable && !DESTINATION_IS_DEAD) ->
      if
      :: DESTINATION_IS_DEAD || !stable -> troubles--
      :: else
      fi;
      help();
      if
#ifdef SETTLE_DOES_NOT_ASK_THE_AUTHORITY
      :: true -> SOURCE(unknown, settle, handedOver)
#endif
      :: sGranted -> SOURCE(unknown, settle, handedOver)
      :: !sGranted -> SOURCE(unknown, transfer, transferring); aAsked = true
      fi
    }
  /* recover(): the destination is dead, and the authority knows, or is the caller's word; or the caller is wrong. */
  :: atomic { sAlive && (sOwn == s_unknown || sOwn == s_handedOver) && (DESTINATION_IS_DEAD || troubles > 0 && !stable) ->
      if
      :: DESTINATION_IS_DEAD -> help(); aOwner = 0; aVoid = true
      :: else -> sourceAsksToRecover()
      fi;
      if
      :: aOwner != 0  /* GODWIT_NOT_OWNER */
      :: aOwner == 0 && sOwn == s_unknown -> SOURCE(unknown, recover, recovered); hangUp()
      :: aOwner == 0 && sOwn == s_handedOver -> SOURCE(handedOver, recover, recovered); hangUp()
      fi
    }
  od
}

/* --- The destination --- */

inline destinationDrops() {
  dAnswered = 0;
  if
  :: dThis -> wire = false
  :: else
  fi;
  dUp = false;
  dThis = false
}

/* The attempt is given up: nothing is missing any more, and what never came is zero. */
inline undoMissing() {
  if
  :: dPage != p_there -> dPage = p_there; dMemory = 0
  :: else
  fi
}

/* It is of no concern any more: one state in place of many. */
inline forgetMemory() {
#ifndef WHOLE_IS_SAID_WITH_A_PAGE_MISSING
  dPage = p_there;
#endif
  dMemory = 0;
  dAnswered = 0
}

/* Before `resumed`. While the memory is still being prepared nothing is named, and nothing was asked for. */
inline destinationNames() {
  if
  :: dPage == p_missing -> destinationSays(m_missing, 0, 0)
  :: else
  fi
}

inline destinationAnswers() {
  if
  :: stage == s_running && !dKnows ->
    dKnows = true;
    dRound = 1;
    destinationSays(m_welcome, 0, INCARNATION)
  /* The source may not have read the first one: then it knows of a destination before this one. */
  :: stage == s_running && dKnows && dOwn == d_receiving && dRound == 1 ->
#ifndef WELCOME_IS_SAID_ONCE
    destinationSays(m_welcome, 0, INCARNATION)
#else
    destinationSays(m_resumed, r_receiving, dRound)
#endif
  :: stage == s_running && dOwn == d_receiving && dRound > 1 ->
    assert(attempt > dLoaded);
    dLoaded = 0;
    undoMissing();
    destinationSays(m_resumed, r_receiving, dRound)
  :: stage == s_running && dOwn == d_ready ->
    assert(attempt > dLoaded);
#ifndef HELLO_RUNNING_DOES_NOT_VOID_READY
    DESTINATION(ready, back, receiving);
    dLoaded = 0;
    undoMissing();
#endif
    destinationSays(m_resumed, r_receiving, dRound)
  :: (stage == s_paused || stage == s_kept) && dKnows && D_receiving -> destinationSays(m_resumed, r_receiving, dRound)
  :: (stage == s_paused || stage == s_kept) && dKnows && D_loading ->
    assert(stage == s_kept || attempt == dLoaded);
    destinationNames();
    destinationSays(m_resumed, r_loading, dRound)
  :: stage != s_running && dOwn == d_ready ->
    assert(stage == s_kept || attempt == dLoaded);
    destinationNames();
    destinationSays(m_resumed, r_ready, dRound)
#ifndef RESUMED_AS_RUNNING_WITH_A_PAGE_MISSING
  :: stage == s_handedOver && dOwn == d_running && (dPage == p_missing || dPage == p_put) ->
    destinationNames();
    destinationSays(m_resumed, r_incomplete, 0)
  :: stage == s_handedOver && dOwn == d_running && dPage == p_whole ->
    dPage = p_there;
    destinationSays(m_resumed, r_running, 0)
#else
  :: stage == s_handedOver && D_post_copy -> destinationSays(m_resumed, r_running, 0)
#endif
  :: stage == s_handedOver && (D_taking_over || dOwn == d_settled) -> destinationSays(m_resumed, r_running, dRound)
  :: stage != s_running && !dKnows -> destinationSays(m_error, e_unknown, 0)
  :: dOwn == d_abandoned || dOwn == d_stranded -> destinationSays(m_error, e_over, 0)
  /* A source that is dead by now. */
  :: stage != s_handedOver && dOwn == d_recovered
  :: else -> assert(false)
  fi
}

inline destinationGoes(a) {
  /* Memory, devices and `go` are of one attempt, and the source has not gone back since. A page may be missing, but is never zero. */
  assert(a == dLoaded && (dMemory == dLoaded || dPage == p_missing) && dLoaded == sAttempt);
  assert(sOwn != s_running && sOwn != s_paused && sOwn != s_kept);
  DESTINATION(ready, go, asking)
}

#ifndef GO_OF_ANY_ATTEMPT_IS_ACCEPTED
#define IS_ACCEPTED (attempt == dLoaded)
#else
#define IS_ACCEPTED (attempt == dLoaded || D_ready)
#endif

inline destinationPuts(a) {
  dPage = p_put;
  dMemory = a
}

inline destinationReads() {
  if
  :: message == m_error ->
    if
    :: dOwn == d_receiving -> DESTINATION(receiving, fail, abandoned); forgetMemory()
    :: dOwn == d_ready -> DESTINATION(ready, fail, abandoned); forgetMemory()
    :: else
    fi;
    destinationSays(m_error, e_over, 0)
  /* Of an attempt that was given up: GODWIT_PROTOCOL, and the link is dropped. */
  :: message == m_go && !IS_ACCEPTED -> destinationDrops()
  :: DESTINATION_READS(ready, go) && IS_ACCEPTED -> destinationGoes(attempt)
  :: DESTINATION_READS(receiving, round) ->
    assert(round == dRound);
    dRound++;
    if
    :: attempt > 0 -> dMemory = attempt
    :: else
    fi;
    destinationSays(m_roundAck, 0, dRound)
  /* What is here of the page is given up: it is old. */
  :: DESTINATION_READS(receiving, missing) -> dPage = p_givenUp; dMemory = 0
  :: DESTINATION_READS(receiving, switchover) ->
    dLoaded = attempt;
#ifndef MISSING_PAGES_ARE_NOT_SERVED
    dServing = (dPage == p_givenUp)
#endif
  :: DESTINATION_READS(receiving, back) -> destinationSays(m_backAck, 0, attempt)
  :: DESTINATION_READS(loading, back) ->
    assert(attempt == dLoaded);
    dLoaded = 0;
#ifdef ANSWERS_OUTLIVE_THEIR_ATTEMPT
    undoMissing();
#endif
    destinationSays(m_backAck, 0, attempt)
  :: DESTINATION_READS(ready, back) ->
    assert(attempt == dLoaded);
#ifndef BACK_DOES_NOT_VOID_READY
    DESTINATION(ready, back, receiving);
    dLoaded = 0;
#endif
#ifdef ANSWERS_OUTLIVE_THEIR_ATTEMPT
    undoMissing();
#endif
    destinationSays(m_backAck, 0, attempt)
  :: DESTINATION_READS(taking_over, released) ->
    if
    :: dOwn == d_running -> DESTINATION(running, released, settled); forgetMemory()
    :: else
    fi
  :: DESTINATION_READS(post_copy, round) ->
    if
    :: attempt > 0 && dPage == p_missing -> destinationPuts(attempt)
    :: else  /* the page is there already */
    fi;
    destinationSays(m_roundAck, 0, 0)
  :: DESTINATION_READS(post_copy, released) -> DESTINATION(running, released, settled); forgetMemory()
  /* Crossed with something that ended it here. */
  :: else -> assert(dOwn == d_abandoned || dOwn == d_stranded && message == m_round)
  fi
}

#ifndef DESTINATION_RECOVERS_WITH_A_PAGE_MISSING
#define MAY_RECOVER (dPage != p_missing)
#else
#define MAY_RECOVER true
#endif

#ifndef WHOLE_IS_SAID_WITH_A_PAGE_MISSING
#define MAY_SAY_WHOLE (dPage == p_put)
#else
#define MAY_SAY_WHOLE (dPage == p_put || dPage == p_missing)
#endif

#ifndef SERVING_IS_NOT_WAITED_FOR
#define MAY_READ !dServing
#else
#define MAY_READ true
#endif

active proctype Destination() {
  mtype message, stage;
  byte round, attempt;
  do
  :: atomic { stable && (!dAlive || sDone && empty(toD) && (!dKnows || D_FINAL)) -> dUp = false; break }

  /*
   * While the authority is asked and the guest is being started nothing is read, and no hello is answered while the memory is being
   * prepared: if the attempt is given up, that has to come to its end, and be undone, before any page comes.
   */
  :: atomic { dAlive && nempty(toD) && dOwn != d_asking && dOwn != d_recovering && !(dOwn == d_running && !dStarted) && MAY_READ ->
      toD?message, stage, round, attempt;
      if
      /* Left over from a dropped connection. */
      :: message != m_hello && !(dThis && dUp)
      /* The loss comes before it, and before all that is behind it. */
      :: !wire ->
#ifdef OLD_CONNECTION_IS_READ
        if
        :: message == m_go && dThis -> dStale = attempt
        :: else
        fi;
#endif
        if
        :: dThis -> dUp = false; dThis = false
        :: else
        fi
      :: DESTINATION_READS(greeting, hello) ->
        dThis = true;
        dUp = true;
        destinationAnswers()
      :: message != m_hello && dThis && dUp -> destinationReads()
      fi;
      message = 0; stage = 0; round = 0; attempt = 0
    }
#ifdef OLD_CONNECTION_IS_READ
  :: atomic { dAlive && dStale > 0 -> destinationGoes(dStale); dStale = 0 }
#endif

  /* Who touches the page waits for it from now on. */
  :: atomic { dAlive && dServing ->
      dServing = false;
      if
      :: D_loading && dPage == p_givenUp -> dPage = p_missing
      :: else -> dMemory = 0  /* undone: what had come meanwhile is given up */
      fi
    }
  :: atomic { dAlive && dAnswered > 0 && dThis && dUp && !D_FINAL ->
      if
      :: dPage == p_missing -> destinationPuts(dAnswered)
      :: else
      fi;
      dAnswered = 0
    }

  /* Everything is loaded. */
  :: atomic { dAlive && D_loading && !dServing ->
      DESTINATION(receiving, ready, ready);
      destinationSays(m_ready, 0, dLoaded)
    }

  /* The authority's answer. */
  :: atomic { dAlive && dOwn == d_asking ->
      if
#ifdef DESTINATION_RUNS_WITHOUT_ASKING
      :: true -> DESTINATION(asking, granted, running)
#endif
      :: aOwner == 1 + INCARNATION -> DESTINATION(asking, granted, running)
      :: else -> DESTINATION(asking, denied, stranded); destinationSays(m_error, e_over, 0)
      fi
    }
  :: atomic { dAlive && dOwn == d_recovering ->
      if
#ifdef DESTINATION_RECOVERS_WITHOUT_ASKING
      :: true -> DESTINATION(recovering, granted, recovered)
#endif
      :: aOwner == 1 + INCARNATION || !sAlive -> DESTINATION(recovering, granted, recovered)
      :: aOwner != 1 + INCARNATION && sAlive -> DESTINATION(recovering, denied, ready)
      :: troubles > 0 && !stable -> troubles--; DESTINATION(recovering, denied, ready)  /* no answer */
      fi
    }

  :: atomic { dAlive && dOwn == d_running && !dStarted ->
      dStarted = true;
      destinationSays(m_running, 0, 0)
    }
  :: atomic { dAlive && dOwn == d_running && !dStarted && !stable ->
      disturbed = true;
      DESTINATION(running, strand, stranded);
      destinationSays(m_error, e_over, 0)
    }
  /* No page is missing any more. */
  :: atomic { dAlive && dOwn == d_running && dStarted && MAY_SAY_WHOLE ->
      assert(dMemory == dLoaded);
      dPage = p_whole;
      destinationSays(m_whole, 0, 0)
    }
  /* The embedder gives the pages up that are missing, since nobody has them any more; or believes so, and is wrong. */
  :: atomic { dAlive && dOwn == d_running && dStarted && dPage == p_missing && (!S_COMES || troubles > 0 && !stable) ->
      if
      :: S_COMES -> troubles--; disturbed = true
      :: else -> help()
      fi;
      DESTINATION(running, strand, stranded);
      destinationSays(m_error, e_over, 0)
    }

  /* Notices that the link is gone. */
  :: atomic { dAlive && dUp && !(wire && dThis) ->
      dAnswered = 0;
      dUp = false;
      dThis = false;
      if
#ifdef DESTINATION_ABANDONS_READY_ON_A_LOST_LINK
      :: dOwn == d_ready -> DESTINATION(ready, fail, abandoned); forgetMemory()
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
      DESTINATION(receiving, fail, abandoned); forgetMemory()
    }
  :: atomic { dAlive && dStarted && !dUp && D_TIMER && dOwn == d_running && (dPage == p_there || dPage == p_whole) ->
      DESTINATION(running, giveUp, untold); forgetMemory()
    }

  /* A cancel by the embedder, or anything of its own that fails. From `ready` it may cross with `go`. */
  :: atomic { dAlive && dKnows && !stable && dOwn == d_receiving ->
      DESTINATION(receiving, fail, abandoned); forgetMemory();
      destinationSays(m_error, e_over, 0)
    }
  :: atomic { dAlive && !stable && dOwn == d_ready ->
      disturbed = disturbed || sOwn == s_transferring || sOwn == s_handedOver;
      lost = lost || !S_HOLDS;
      DESTINATION(ready, fail, abandoned); forgetMemory();
      destinationSays(m_error, e_over, 0)
    }

  /* The embedder, where nobody comes to say more; or who believes so, and is wrong. Refused while a page is missing. */
  :: atomic { dAlive && dOwn == d_ready && MAY_RECOVER && (!sAlive || troubles > 0 && !stable) ->
      if
      :: sAlive -> troubles--; disturbed = true
      :: else -> help()
      fi;
      destinationDrops();
      DESTINATION(ready, recover, recovering)
    }
  :: atomic { dAlive && dOwn == d_ready && stable && (sAlive && sDone && empty(toD) || !sAlive && dPage == p_missing) ->
      help();
      DESTINATION(ready, fail, abandoned); forgetMemory()
    }
  od
}

/* --- Everything else --- */

#ifndef CLAIM_IS_NOT_TAKEN
#define MAY_CLAIM (claim == c_idle)
#else
#define MAY_CLAIM true
#endif

/* What a dead process knew is of no concern any more: one state in place of many. */
inline sourceIsGone() {
  sUp = false;
  sHeard = false;
  sCalled = false;
  sTelling = false;
  sGranted = false;
  overAtSource();
  sPostcopy = false;
  sOwed = true;
  sNamed = false;
  do
  :: nempty(toS) -> toS?_, _, _
  :: empty(toS) -> break
  od
}

/* And one that is started in its place knows nothing. */
inline destinationIsGone() {
  dOwn = d_receiving;
  dUp = false;
  dThis = false;
  dKnows = false;
  dRound = 0;
  dLoaded = 0;
  dStarted = false;
  dServing = false;
  dPage = p_there;
  dMemory = 0;
  dAnswered = 0;
  do
  :: nempty(toD) -> toD?_, _, _, _
  :: empty(toD) -> break
  od;
#ifdef OLD_CONNECTION_IS_READ
  dStale = 0;
#endif
  skip
}

active proctype Environment() {
  do
  :: atomic { wire && troubles > 0 -> troubles--; wire = false }
  :: atomic { sAlive && troubles > 0 ->
      troubles--;
      disturbed = true;
      sAlive = false;
      wire = false;
      lost = lost || !D_HOLDS;
      sourceIsGone()
    }
  :: atomic { dAlive && troubles > 0 ->
      troubles--;
      disturbed = true;
      dAlive = false;
      wire = false;
      lost = lost || !S_HOLDS;
      destinationIsGone()
    }
  :: atomic { !dAlive && restarts > 0 ->
      restarts--;
      dAlive = true
    }

  /* `transfer` and `withdraw`, late or with answers that nobody hears. */
  :: atomic { aAsked ->
      aAsked = false;
      if
#ifdef WITHDRAWN_IS_NOT_FINAL
      :: true -> aOwner = 1 + sIncarnation
#endif
      :: !aVoid -> aOwner = 1 + sIncarnation
      :: aOwner == 0 -> aVoid = true
      fi
    }
  :: atomic { sAlive && sOwn == s_transferring && aOwner == 0 && !aVoid -> aVoid = true }
  /* The authority's operator gives the guest back to the source, having seen there that the destination does not run it. */
  :: atomic { troubles > 0 && aOwner != 0 && !D_RUNS ->
      troubles--;
      disturbed = true;
      aOwner = 0;
      aVoid = true
    }

  /* A source that is in error says `go` once more for an attempt that was given up. */
  :: atomic { wire && dThis && troubles > 0 && len(toD) < 2 && sAttempt > 1 && !S_CLOSES && dLoaded != sAttempt - 1 ->
      troubles--;
      toD!m_go, 0, 0, sAttempt - 1
    }

  /* migrate() of the same VM once more: refused unless its claim is free. From then on it may run the guest at any time. */
  :: atomic { sAlive && MAY_CLAIM && !sSecond ->
      assert(sDone && S_RUNS);
      sSecond = true
    }
  :: stable = true -> break
  od
}
